"""Which of the tasks a checkpoint or a run is of, for the commands that take any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from classification.task import ClassificationTask
from detection.task_info import DETECTION
from engine.errors import UserError
from engine.train.checkpoint import load_checkpoint
from places365.task import CLASSIFICATION_TASKS

T = TypeVar("T")


def by_task(
    name: object, source: str | Path, detector: Callable[[], T], classifier: Callable[[ClassificationTask], T]
) -> T:
    """What the function of a task gives.

    Args:
        name: the task's, as checkpoints and results state it.
        source: what states it, for the message.
        detector: is called for detection, and ``classifier`` for any kind of classification, with which it is.

    Raises:
        UserError: there is no such task.
    """
    if name == DETECTION.name:
        return detector()
    if not isinstance(name, str) or name not in CLASSIFICATION_TASKS:
        known = ", ".join((DETECTION.name, *CLASSIFICATION_TASKS))
        raise UserError(f"{source} is of the task {name!r}, which is none of {known}: another program's, or damaged")
    return classifier(CLASSIFICATION_TASKS[name])


def by_task_of(weights: Path, detector: Callable[[], T], classifier: Callable[[ClassificationTask], T]) -> T:
    """``by_task`` of a checkpoint. Raises UserError as that, and as ``load_checkpoint``."""
    return by_task(load_checkpoint(weights).get("task"), weights, detector, classifier)
