"""How sure a classifier has to be for its answers to be right as often as is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from classification.evaluation.metrics import Predictions
from engine.errors import UserError

KEY = "thresholds"  # in checkpoints, and among the details of exported files
ACCURACIES = (80, 90, 95, 98, 99)  # percent of the answers
RULE = (
    "the lowest probability of the first guess from which on at least so many percent of the validation set's answers "
    "are right; below it there is no answer (selective classification, Geifman and El-Yaniv 2017, arXiv 1705.08500, "
    "without their margin for a small set)"
)


def abstention(predictions: Predictions) -> list[dict]:
    """For each of ``ACCURACIES`` the threshold by ``RULE``, and what it costs.

    Images that could not be read are answered in no case.

    Returns:
        {"accuracy", "threshold": 0..1, or None where no threshold reaches it, "answered": percent of the images, or
        None}.
    """
    read = ~predictions.broken
    order = np.argsort(-predictions.confidence[read], kind="stable")
    confidence = predictions.confidence[read][order]
    right = (predictions.top5[:, 0] == predictions.labels)[read][order]
    answered = np.arange(1, len(right) + 1)
    last_of_equals = np.append(confidence[1:] != confidence[:-1], True) if len(right) else np.zeros(0, bool)
    table = []
    for accuracy in ACCURACIES:
        reaching = np.flatnonzero(last_of_equals & (100 * np.cumsum(right) >= accuracy * answered))
        entry = {"accuracy": accuracy, "threshold": None, "answered": None}
        if len(reaching):
            place = int(reaching[-1])
            entry["threshold"] = float(confidence[place])
            entry["answered"] = 100.0 * (place + 1) / len(predictions)
        table.append(entry)
    return table


def stated_threshold(accuracy: int, stated: Callable[[], object], weights: str | Path) -> float:
    """The threshold that weights state for an accuracy.

    Args:
        accuracy: percent, one of ``ACCURACIES``.
        stated: gives what ``weights`` state, None where they do not.

    Raises:
        UserError: they state none, or none for this accuracy.
    """
    if accuracy not in ACCURACIES:
        raise UserError(f"--sure {accuracy}: one of {', '.join(map(str, ACCURACIES))} percent")
    if (content := stated()) is None:
        raise UserError(
            f"--sure {accuracy}: {weights} states no thresholds, which a training with validation images (DATA.VAL) "
            "adds to model_final.pth and model_best.pth"
        )
    try:
        found = {entry["accuracy"]: entry["threshold"] for entry in content["at_accuracy"]}[accuracy]
    except (KeyError, TypeError):
        raise UserError(f"--sure {accuracy}: what {weights} states as thresholds cannot be read") from None
    if found is None:
        raise UserError(f"--sure {accuracy}: on the validation set no probability made {accuracy} % of answers right")
    return float(found)
