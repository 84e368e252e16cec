"""The three kinds of runs that a study may consist of, as one value each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from classification.config import load_config as load_classification_config
from classification.slim import open_classifier
from classification.task import CLASS_FOLDERS, ClassificationTask
from classification.train import run_classification
from detection.config import load_config as load_detection_config
from detection.task_info import DETECTION
from detection.train import Options as DetectionOptions
from detection.train import run_detection
from engine import compat  # noqa: F401  (before detectron2)
from engine.run.experiment import Options
from engine.slim.subject import Subject
from engine.task import TaskInfo
from places365.task import PLACES365_TASK
from places365.train import run_places365

from detectron2.config import CfgNode


@dataclass(frozen=True)
class Kind:
    """A kind of runs.

    Attributes:
        info: what the engine is told of the task.
        load_config: (file, KEY VALUE words) → the config.
        run: options → the figures.
        options: what ``run`` takes.
        group: of the figures in result.json, and ``figures``: those that a study compares, the main one first.
        errors: whether the figures are errors, of which the lower is the better.
        data: the key of the data set's place, "" where there is no one key.
        task: what classification is told of the data; None for detection.
        subject: (weights, device, their data in place of the run's or None, KEY VALUE words) → what a surgery cuts.
        test_size: the key of the side of the images that multiply-adds are counted at, "" where they are not.
    """

    info: TaskInfo
    load_config: Callable[..., CfgNode]
    run: Callable[..., dict]
    options: Callable[..., Options]
    group: str
    figures: tuple[str, ...]
    errors: bool
    subject: Callable[..., Subject]
    data: str = "DATA.ROOT"
    task: ClassificationTask | None = None
    test_size: str = "INPUT.TEST_SIZE"


def _classification(task: ClassificationTask, run: Callable[..., dict]) -> Kind:
    figures = ("top1_error", "top5_error")

    def subject(weights: Path, *given) -> Subject:
        return open_classifier(weights, task, *given)

    name = task.info.name
    return Kind(task.info, load_classification_config, run, Options, name, figures, True, subject, task=task)


def _detector(*given) -> Subject:
    from detection.slim import open_detector

    return open_detector(*given)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "classification": _classification(CLASS_FOLDERS, run_classification),
        "places365": _classification(PLACES365_TASK, run_places365),
        "detection": Kind(
            DETECTION,
            load_detection_config,
            run_detection,
            DetectionOptions,
            "bbox",
            ("AP", "AP50"),
            errors=False,
            subject=_detector,
            data="",
            test_size="",
        ),
    }
)
