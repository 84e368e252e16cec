"""The best evaluation of a run: its weights are kept, and a run that gets no better may end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

from engine.errors import UserError
from engine.train.checkpoint import load_checkpoint, save_checkpoint

BEST_FILE = "model_best.pth"

logger = logging.getLogger(__name__)


def is_better(figure: float | None, best: float | None, threshold: float = 0.0) -> bool:
    """Whether a figure, higher is better, is above the best one so far by more than ``threshold``. None or NaN, of data
    that have none, is no better one."""
    return figure is not None and not math.isnan(figure) and (best is None or figure > best + threshold)


class Patience:
    """Counts the evaluations in a row that were no better than the best one before them.

    Args:
        evaluations: after how many of them the training is to end; 0: never.

    Attributes:
        ended: the training is to end.
    """

    def __init__(self, evaluations: int):
        self.evaluations = evaluations
        self.best: float | None = None
        self.waited = 0

    @property
    def ended(self) -> bool:
        return 0 < self.evaluations <= self.waited

    def report(self, figure: float | None) -> None:
        """Takes an evaluation's figure, as ``is_better`` does."""
        if is_better(figure, self.best):
            self.best, self.waited = figure, 0
        else:
            self.waited += 1

    def state_dict(self) -> dict:
        """What a checkpoint holds of it: plain numbers."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from ``state_dict``'s."""
        self.best, self.waited = state["best"], state["waited"]


class BestModel:
    """``model_best.pth`` of a run: the weights of its best evaluation, the first one of equals, in the form of
    ``model_final.pth``. The file says itself which evaluation that was, so that whatever a kill left is the whole
    truth: an evaluation that a resumed run repeats is no better than itself.

    Attributes:
        record: ``{"figure", "value", "iteration"}``, "group/figure", its value and after how many steps; None before
            the first evaluation, and in all processes but the first.
    """

    def __init__(self, run: Path):
        self.path = Path(run) / BEST_FILE
        self.record: dict | None = None

    def resume(self) -> None:
        """Goes on from the file, if there is one. To be called by the first process."""
        if not self.path.exists():
            return
        try:
            self.record = load_checkpoint(self.path).get("best")
        except UserError as error:
            logger.warning("%s; the best evaluation is looked for anew from here", error)

    def report(self, figure: str, value: float | None, iteration: int, content: Callable[[], dict]) -> None:
        """Writes the file where an evaluation is the best one so far. To be called by the first process.

        Args:
            figure: its name, "group/figure"; one of another name in the file counts no more.
            value: as ``is_better`` takes it.
            content: gives that of the file, but for the record.
        """
        before = self.record["value"] if self.record and self.record["figure"] == figure else None
        if not is_better(value, before):
            return
        self.record = {"figure": figure, "value": float(value), "iteration": iteration}
        save_checkpoint(self.path, {**content(), "best": self.record})
        logger.info("step %d: %s %.4g is the best so far; its weights are in %s", iteration, figure, value, self.path)
