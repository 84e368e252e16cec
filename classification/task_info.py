"""What the engine is told of a classification task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.report.run_reader import find
from engine.task import ConfigFacts, TaskInfo

_LABELS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "top1_error": "top-1 error",
    "top5_error": "top-5 error",
    "mean_class_top1": "mean class accuracy",
    "ece": "calibration error",
}
_MEANINGS = {
    "top1": "the first guess is right",
    "top5": "the truth is among five guesses",
    "top1_error": "100 less top-1 accuracy",
    "top5_error": "100 less top-5 accuracy",
    "mean_class_top1": "every class with the same weight",
    "ece": "expected difference of confidence and accuracy, 15 bins",
}


def classification_info(
    name: str,
    title: str,
    accuracy: str,
    predictions_file: str,
    train_command: str,
    predict_command: str,
    packages: tuple[str, ...] = ("classification",),
    labels: Mapping[str, str] | None = None,
    meanings: Mapping[str, str] | None = None,
) -> TaskInfo:
    """The classification of a kind of images.

    Args:
        name, title, predictions_file, train_command, predict_command, packages: as ``TaskInfo``.
        accuracy: what its figures together are called.
        labels, meanings: of the figures that only this kind has.
    """
    return TaskInfo(
        name=name,
        title=title,
        packages=packages,
        figures={name: accuracy},
        main_figures=("top1", "top5"),
        figure_labels=_LABELS | (labels or {}),
        figure_meanings=_MEANINGS | (meanings or {}),
        no_figure="no image of it in the data",
        predictions_file=predictions_file,
        listings={"broken_files.jsonl": "Some images could not be read"},
        train_command=train_command,
        predict_command=predict_command,
        published_figures=("top1_error", "top5_error"),
        read_config=_read_config,
    )


def _read_config(config: dict, result: dict) -> ConfigFacts:
    return ConfigFacts(
        training_data=_data_set(config, "TRAIN"),
        evaluation_data=_data_set(config, "VAL"),
        image_size=_image_size(config, result),
    )


def _data_set(config: dict, split: str) -> str:
    """The root folder's name and the split's; "" without the split, since nothing is evaluated then."""
    root, name = find(config, "DATA.ROOT"), find(config, f"DATA.{split}")
    return f"{Path(str(root)).name or root}/{name}" if root and name else ""


def _image_size(config: dict, result: dict) -> str:
    train, crop, resize = (find(config, f"INPUT.{key}") for key in ("TRAIN_SIZE", "TEST_SIZE", "TEST_RESIZE"))
    if not crop:
        return ""
    crops = result.get("crops") or find(config, "TEST.CROPS")
    cut = f"the mean of {crops} crops of {crop}" if crops not in (None, 1) else f"its centre of {crop}"
    whole = f"shorter side {resize} pixels" if resize else "the image as it is"
    return f"training {train} pixels; evaluation {whole}, {cut}"
