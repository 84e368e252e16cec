"""Learning-rate schedules, from the SOLVER part of a config."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.train.best import is_better

from detectron2.solver import build_lr_scheduler


def build_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
    """The scheduler that SOLVER.LR_SCHEDULER_NAME names, to be stepped once a step: Detectron2's, or ``Plateau``.

    Args:
        cfg: lengths in steps: SOLVER.MAX_ITER, WARMUP_ITERS, STEPS and TEST.EVAL_PERIOD.

    Raises:
        UserError: the learning rate, or the end, is to follow the evaluations, and there is none before the end.
    """
    period, steps = cfg.TEST.EVAL_PERIOD, cfg.SOLVER.MAX_ITER
    if (key := follows_evaluations(cfg)) and not 0 < period < steps:
        raise UserError(
            f"{key} follows the evaluations, and before the end of the {steps} steps there is none (one is made every "
            f"{period or steps} steps): evaluate more often"
        )
    if cfg.SOLVER.LR_SCHEDULER_NAME != "Plateau":
        return build_lr_scheduler(cfg, optimizer)
    return Plateau(optimizer, cfg.SOLVER)


def follows_evaluations(cfg: CfgNode) -> str:
    """The key and value, as text, by which the evaluations' figures may end a training; empty where none does."""
    if cfg.SOLVER.LR_SCHEDULER_NAME == "Plateau":
        return "SOLVER.LR_SCHEDULER_NAME Plateau"
    return f"SOLVER.PATIENCE {cfg.SOLVER.PATIENCE}" if cfg.SOLVER.PATIENCE else ""


class Plateau(torch.optim.lr_scheduler.LRScheduler):
    """The learning rate is multiplied by SOLVER.GAMMA whenever a figure has stopped getting better.

    A figure, higher is better, gets better where it is above the best one so far by more than PLATEAU.THRESHOLD. After
    PLATEAU.PATIENCE evaluations in a row in which it did not, there is a drop, and the count begins again; the best
    figure stays. After PLATEAU.DROPS of them the next plateau is the end. Warm-up is Detectron2's.

    The drops are where torch's ReduceLROnPlateau (mode max, threshold_mode abs, patience less one) has them. It is not
    used: it multiplies the rates that it finds in the optimizer, which in a warm-up, or in a resumed run whose config
    has another BASE_LR, are not those that it would have to, and it knows no end.

    Attributes:
        ended: the training is to end.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, solver: CfgNode):
        self._solver, self.ended = solver, False
        self.best: float | None = None
        self.waited = self.drops = 0
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        solver, factor = self._solver, self._solver.GAMMA**self.drops
        if self.last_epoch < solver.WARMUP_ITERS:
            share = self.last_epoch / solver.WARMUP_ITERS if solver.WARMUP_METHOD == "linear" else 0.0
            factor *= solver.WARMUP_FACTOR * (1 - share) + share
        return [lr * factor for lr in self.base_lrs]

    def report(self, figure: float | None) -> None:
        """Takes an evaluation's figure; None or NaN, of data that have none, is no better one."""
        rule = self._solver.PLATEAU
        if is_better(figure, self.best, rule.THRESHOLD):
            self.best, self.waited = figure, 0
            return
        self.waited += 1
        if self.waited < rule.PATIENCE:
            return
        self.waited = 0
        self.ended = self.drops >= rule.DROPS
        self.drops += not self.ended
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr

    def state_dict(self) -> dict:
        """What a checkpoint holds of it: plain numbers."""
        return {key: getattr(self, key) for key in ("base_lrs", "last_epoch", "best", "waited", "drops")}

    def load_state_dict(self, state_dict: dict) -> None:
        """Goes on from ``state_dict``'s; from another schedule's, counting begins here."""
        for key, value in state_dict.items():
            setattr(self, key, value)
