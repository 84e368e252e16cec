"""When a training is evaluated, and when and why it ends."""

from __future__ import annotations

import logging
from typing import Any

import torch
from fvcore.common.config import CfgNode

from engine import compat  # noqa: F401  (before detectron2)
from engine.train.best import Patience
from engine.train.launch import any_process
from engine.train.schedule import Plateau
from engine.train.time_limit import TimeLimit

from detectron2.utils import comm

logger = logging.getLogger(__name__)


class Course:
    """The way of a training to its end: SOLVER.MAX_ITER, or earlier by the schedule, SOLVER.PATIENCE or
    SOLVER.TIME_LIMIT.

    Args:
        schedule: the learning rate's; a ``Plateau`` is told the evaluations' figures.
        device: this process's.

    Attributes:
        max_iterations: the step after which the training ends.
        ended: why it ended before SOLVER.MAX_ITER, in words; empty where it has not.
        patience, limit: what may end it.
    """

    def __init__(self, cfg: CfgNode, schedule: Any, device: torch.device):
        self._steps, self._period, self._device = cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, device
        self.plateau = schedule if isinstance(schedule, Plateau) else None
        self.patience, self.limit = Patience(cfg.SOLVER.PATIENCE), TimeLimit(cfg.SOLVER.TIME_LIMIT)
        self.max_iterations, self.ended = self._steps, ""

    def evaluation_scheduled(self, step: int) -> bool:
        """Whether an evaluation belongs behind a step, a time limit aside."""
        return step == self._steps or due(step, self._period)

    def report(self, step: int, name: str, figure: float | None) -> None:
        """Tells the schedule and the patience the figure of a scheduled evaluation. All processes must be told the
        same, so that they take the same decisions.

        Args:
            name: of the figure.
        """
        self.patience.report(figure)
        if self.plateau is not None:
            drops = self.plateau.drops
            self.plateau.report(figure)
            if self.plateau.drops > drops:
                lr = self.plateau.optimizer.param_groups[0]["lr"]
                logger.info("step %d: %s gets no better; lr %.4g from here", step, name, lr)
        if self.patience.ended:
            evaluations = self.patience.evaluations
            self._end(step, f"{name} got no better in {evaluations} evaluations (SOLVER.PATIENCE)")
        elif self.plateau is not None and self.plateau.ended:
            self._end(step, f"{name} gets no better (SOLVER.PLATEAU)")

    def end_in_time(self, step: int) -> None:
        """Ends the training behind this step where the limit is reached, by the first process's clock. All processes
        must call it."""
        if self.limit.minutes and any_process(comm.is_main_process() and self.limit.reached, self._device):
            if self.limit.expected("step") is None:
                logger.warning(
                    "step %d: SOLVER.TIME_LIMIT %g leaves no time for a step behind the evaluation with which this "
                    "start began, nor will it with --resume: a longer one goes on",
                    step, self.limit.minutes,
                )  # fmt: skip
            self._end(step, f"the time limit of {self.limit.minutes:g} minutes (SOLVER.TIME_LIMIT)")

    def _end(self, step: int, reason: str) -> None:
        if step < self.max_iterations:
            logger.info("step %d: the training ends here: %s", step, reason)
            self.max_iterations, self.ended = step, reason


def due(step: int, period: int) -> bool:
    """Whether something that happens every ``period`` steps, never for 0, happens behind a step."""
    return period > 0 and step % period == 0
