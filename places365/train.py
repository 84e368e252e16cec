"""A run on Places365 from a config to its figures: what ``tools/train_places365.py`` does."""

from __future__ import annotations

from classification.train import run_classification
from engine.run.experiment import Options
from places365.task import PLACES365_TASK


def run_places365(options: Options) -> dict:
    """``classification.train.run_classification`` on Places365, or on scenes in class folders.

    Returns:
        the figures, as in ``result.json``; an empty dict in all processes but the first.

    Raises:
        UserError: anything the person can put right, with what to do.
    """
    return run_classification(options, PLACES365_TASK)
