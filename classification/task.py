"""What a data set of its own adds to classification: a value that training, evaluation and prediction are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from classification.groups import ClassGroups
from classification.index.split import Split
from classification.sets.find import find_split
from classification.task_info import classification_info
from engine.task import TaskInfo


def _group_shares(groups: Mapping[str, float]) -> dict:
    return {"groups": {name: round(share, 6) for name, share in groups.items()}} if groups else {}


@dataclass(frozen=True)
class ClassificationTask:
    """Classification of the images of some kind of data set; the defaults are those of any set that is no task of
    its own.

    Attributes:
        info: what the engine is told. Figures stand under its name in result.json, and its predictions_file is the name
            of a prediction's answers too.
        find_split: (DATA.ROOT, the split's name, DATA.IMAGES) → the split. Raises UserError where it is not there.
        groups: class names → what groups the classes belong to, or None.
        published: (class names, labels (N,)) → figures of others to show beside those of a set, each a dictionary with
            "model", "top1", "top5", "top1_error", "top5_error", "crops", "trained_on" and "source".
        record_groups: {group: probability 0..1}, empty where the classes do not tell → what a prediction's record says
            of it.
    """

    info: TaskInfo
    find_split: Callable[[str, str, str], Split] = find_split
    groups: Callable[[Sequence[str]], ClassGroups | None] = lambda classes: None
    published: Callable[[Sequence[str], np.ndarray], list[dict]] = lambda classes, labels: []
    record_groups: Callable[[Mapping[str, float]], dict] = _group_shares


CLASS_FOLDERS = ClassificationTask(
    classification_info(
        name="classification",
        title="Image classification",
        accuracy="Accuracy",
        predictions_file="class_predictions.json",
        train_command="tools/train_classifier.py",
        predict_command="tools/predict_image.py",
    )
)
