"""The training loop, whatever the task: mixed precision, accumulation, checkpoints, resume, evaluation, logs."""

from __future__ import annotations

import logging
import random
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine import compat  # noqa: F401  (before detectron2)
from engine.device import autocast, choose_precision, hardware
from engine.errors import UserError
from engine.train.checkpoint import checkpoint_path, save_checkpoint
from engine.train.launch import any_process, of_any_process, raise_everywhere
from engine.train.loop_task import Task
from engine.train.optim import KeptStatistics, build_ema, build_optimizer, clip_gradients, share_buffers
from engine.train.sampling import derive_seed
from engine.train.saving import CheckpointSaver
from engine.train.schedule import Plateau
from engine.train.stopping import Stopped, StopRequest

from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter

logger = logging.getLogger(__name__)


class NonFiniteLoss(UserError):
    """A loss became infinite or not a number."""


class Trainer:
    """Trains a model on a task by a config's SOLVER.

    The state after a step depends on (seed, step) alone and not on how the run came there: a resumed run equals an
    uninterrupted one, bit for bit where the kernels are deterministic (on CPUs; RoIAlign's backward on GPUs is not).

    Args:
        model: on its device.
        cfg: with ``add_engine_defaults``' keys.
        scheduler: (optimizer) → a learning-rate scheduler that is stepped once a step.
        run: the run folder.
        resume_from: the content of a checkpoint to go on from.
        lr_factors: by what the learning rate is multiplied in parts of the model; see ``build_optimizer``.
    """

    def __init__(
        self,
        model: nn.Module,
        cfg: CfgNode,
        scheduler: Callable[[torch.optim.Optimizer], Any],
        run: Path,
        resume_from: dict | None = None,
        lr_factors: Mapping[str, float] = MappingProxyType({}),
    ):
        self.cfg, self.run = cfg, Path(run)
        self.device = next(model.parameters()).device
        self.precision = choose_precision(cfg.SOLVER.PRECISION, self.device)
        self.model = model
        self.optimizer = build_optimizer(model, cfg.SOLVER, lr_factors)
        self.scheduler = scheduler(self.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.ema = build_ema(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        self.iteration = 0
        self.seconds = 0.0  # of training and evaluating, over all of the run's starts
        self.hardware = [hardware(self.device)]  # of all starts, in order
        self.max_iterations = cfg.SOLVER.MAX_ITER
        kept_for = cfg.SOLVER.get("FREEZE_NORM_ITERS", 0)  # a key of tasks that want it
        self.kept_statistics = KeptStatistics(model, self.max_iterations - kept_for)
        self.final: Path | None = None  # the final weights, once they are written
        self.saver = CheckpointSaver()
        if resume_from is not None:
            self._restore(resume_from)
        self.parallel = model
        if comm.get_world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            with warnings.catch_warnings():  # older releases of PyTorch do not know the option's new name
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
                self.parallel = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

    @property
    def evaluated_model(self) -> nn.Module:
        """The weights that count: the average where EMA is on, else the model's own."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def account(self) -> tuple[list[str], int, float]:
        """How the run was made, over all of its starts: hardware, steps, seconds of training and evaluating."""
        return self.hardware, self.iteration, self.seconds

    def train(self, task: Task, writers: list[EventWriter]) -> dict | None:
        """Runs to SOLVER.MAX_ITER, or until the schedule ends it, writes the final weights, evaluates them, and returns
        the figures; None where the task has no evaluation.

        A checkpoint is written before the evaluation at its step and not behind it, and a run that goes on from it
        begins with that evaluation. So a ``Plateau`` in a checkpoint has never seen the figure of that step, wherever a
        kill came, and is told it once.

        Raises:
            Stopped: by SIGTERM or Ctrl-C; a checkpoint has been written.
            NonFiniteLoss: with the step, the losses and the images.
        """
        cfg, figures = self.cfg, None
        with EventStorage(self.iteration) as storage, StopRequest() as stop, self.saver:
            try:
                begin = time.perf_counter() - self.seconds
                if self.iteration == self.max_iterations:  # resumed behind the last step
                    self.save_final(task)
                if self.iteration and task.evaluate and self._evaluation_due():
                    figures = self._evaluate_and_log(task, storage, stop)  # a kill may have cut it off
                    for writer in writers:
                        writer.write()
                while self.iteration < self.max_iterations:
                    storage.iter = self.iteration + 1  # figures are numbered by the steps that are done
                    self._step(task, storage)
                    self.iteration += 1
                    self.seconds = time.perf_counter() - begin
                    self.saver.check()
                    done = self.iteration == self.max_iterations
                    evaluation_due = task.evaluate and self._evaluation_due()
                    stop_now = any_process(stop.requested, self.device)
                    if stop_now or evaluation_due or done or _due(self.iteration, cfg.SOLVER.CHECKPOINT_PERIOD):
                        self._save(task)  # before an evaluation, which may be long, and may be interrupted
                    if done:
                        self.save_final(task)
                    if stop_now:
                        raise Stopped(of_any_process(stop.signal_name), self.iteration, self.run)
                    if evaluation_due:
                        figures = self._evaluate_and_log(task, storage, stop)
                    if evaluation_due or done or _due(self.iteration, cfg.LOG_PERIOD):
                        for writer in writers:
                            writer.write()
                self.seconds = time.perf_counter() - begin
            finally:
                for writer in writers:
                    writer.close()
        return figures

    def evaluate(self, task: Task) -> dict:
        """The task's figures for ``evaluated_model``."""
        model = self.evaluated_model
        share_buffers(model)
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():  # in float32, so that the figures do not depend on how it was trained
                return task.evaluate(model)
        finally:
            model.train(was_training)

    def _evaluation_due(self) -> bool:
        return self.iteration == self.max_iterations or _due(self.iteration, self.cfg.TEST.EVAL_PERIOD)

    def _evaluate_and_log(self, task: Task, storage: EventStorage, stop: StopRequest) -> dict:
        self.saver.wait()  # nothing that happens in an evaluation, which forks processes, can harm the file
        with stop.interrupting(lambda name: Stopped(name, self.iteration, self.run)):
            figures = self.evaluate(task)
        storage.put_scalars(**flatten(figures), smoothing_hint=False)
        if isinstance(self.scheduler, Plateau):
            self._report(figures, task)
        return figures

    def _report(self, figures: dict, task: Task) -> None:
        """Tells the schedule the figure, which the first process alone has; all take the same decision."""
        drops = self.scheduler.drops
        self.scheduler.report(of_any_process(flatten(figures).get(task.main_figure)))
        if self.scheduler.ended and self.iteration < self.max_iterations:
            logger.info("step %d: %s gets no better; the training ends here", self.iteration, task.main_figure)
            self.max_iterations = self.iteration
            self.save_final(task)
        elif self.scheduler.drops > drops:
            lr = self.optimizer.param_groups[0]["lr"]
            logger.info("step %d: %s gets no better; lr %.4g from here", self.iteration, task.main_figure, lr)

    def save_final(self, task: Task) -> Path:
        """Writes ``model_final.pth``: the weights that are evaluated, without what only training needs."""
        self.saver.wait()
        path = self.run / "model_final.pth"
        if comm.is_main_process():
            weights = self.evaluated_model.state_dict()
            save_checkpoint(path, {**task.describe, "iteration": self.iteration, "model": weights})
        self.final = path
        return path

    def _step(self, task: Task, storage: EventStorage) -> None:
        cfg = self.cfg
        begin = time.perf_counter()
        batch, trouble = None, None
        try:
            batch = next(task.batches)
        except UserError as error:  # an image that cannot be read, in one process perhaps
            trouble = error
        raise_everywhere(trouble, self.device)
        data_seconds = time.perf_counter() - begin
        self._seed()
        self.parallel.train()
        self.kept_statistics.begin(self.iteration)
        parts = task.split(batch, cfg.SOLVER.ACCUMULATE) if cfg.SOLVER.ACCUMULATE > 1 else [batch]
        self.optimizer.zero_grad(set_to_none=True)
        total: dict[str, float] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with nullcontext() if last or self.parallel is self.model else self.parallel.no_sync():
                losses = self._losses(task, part)
                self.scaler.scale(sum(losses.values()) / len(parts)).backward()
            for name, value in _to_floats(losses).items():
                total[name] = total.get(name, 0.0) + value / len(parts)
        if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(self.model.parameters(), cfg.SOLVER.CLIP_GRADIENTS)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        storage.put_scalar("lr", self.optimizer.param_groups[0]["lr"], smoothing_hint=False)
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        seconds = time.perf_counter() - begin
        storage.put_scalars(total_loss=sum(total.values()), **(total if len(total) > 1 else {}))
        storage.put_scalars(time=seconds, data_time=data_seconds)
        storage.put_scalar("images_per_second", cfg.SOLVER.IMS_PER_BATCH / seconds)

    def _seed(self) -> None:
        seed = derive_seed(self.cfg.SEED, self.iteration, comm.get_rank())
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    def _losses(self, task: Task, part: Any) -> dict[str, Tensor]:
        """A forward pass. Raises NonFiniteLoss, in all processes, where any of them has a loss that is not finite."""
        losses, trouble = {}, ""
        try:
            with autocast(self.device, self.precision):
                losses = task.losses(self.parallel, part)
            if not torch.stack([loss.detach().float() for loss in losses.values()]).isfinite().all():
                trouble = ", ".join(f"{name} {loss.item():.4g}" for name, loss in losses.items())
        except FloatingPointError as error:  # Detectron2 looks at its proposals before there is a loss
            trouble = str(error)
        if not any_process(bool(trouble), self.device):
            return losses
        found = comm.all_gather(f"({trouble}) on images {task.name_images(part)}" if trouble else "")
        raise NonFiniteLoss(
            f"step {self.iteration + 1}: the loss is not finite {'; '.join(filter(None, found))}. "
            f"Nothing of this step was applied. Try a lower SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS.ENABLED True or "
            f"{task.advice}, and go on from the last checkpoint with --resume"
        )

    def _save(self, task: Task) -> None:
        if not comm.is_main_process():
            return
        content = {
            **task.describe,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "hardware": self.hardware,
            "processes": comm.get_world_size(),
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        self.saver.save(checkpoint_path(self.run, self.iteration), content, self.cfg.SOLVER.KEEP_CHECKPOINTS)

    def _restore(self, content: dict) -> None:
        """Takes over a checkpoint's state. Learning rates and decays are the config's, which may have been changed."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        base_lrs = list(self.scheduler.base_lrs)
        try:
            self.model.load_state_dict(content["model"])
            if settings[0].keys() != content["optimizer"]["param_groups"][0].keys() - {"params"}:
                raise ValueError("the optimizer is another one (SOLVER.OPTIMIZER)")
            self.optimizer.load_state_dict(content["optimizer"])
            for group, wanted in zip(self.optimizer.param_groups, settings, strict=True):
                group.update(wanted)
            self.scheduler.load_state_dict(content["scheduler"])
            if content["scaler"] and self.scaler.is_enabled():
                self.scaler.load_state_dict(content["scaler"])
            if self.ema is not None and content["ema"] is not None:
                self.ema.load_state_dict(content["ema"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"the checkpoint in {self.run} does not fit the config, so the run cannot be resumed with it: {error}"
            ) from error
        if (self.ema is None) != (content["ema"] is None):
            raise UserError("SOLVER.EMA.ENABLED differs from the run's: resume with it as it was")
        self.scheduler.base_lrs = base_lrs
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = lr
        self.iteration, self.seconds = content["iteration"], content["seconds"]
        self.hardware = list(dict.fromkeys([*content.get("hardware", ()), *self.hardware]))


def flatten(figures: dict) -> dict[str, float]:
    """``{group: {figure: value}}`` → ``{"group/figure": value}``; what is no number is left out."""
    return {
        f"{group}/{name}": value
        for group, values in figures.items()
        if isinstance(values, dict)
        for name, value in values.items()
        if isinstance(value, int | float)
    }


def _due(iteration: int, period: int) -> bool:
    return period > 0 and iteration % period == 0


def _to_floats(losses: dict[str, Tensor]) -> dict[str, float]:
    """The losses as numbers, averaged over the processes (in the first one)."""
    reduced = comm.reduce_dict({name: loss.detach().float() for name, loss in losses.items()})
    values = torch.stack(list(reduced.values())).tolist()  # one wait for the GPU, not one a loss
    return dict(zip(reduced, values, strict=True))
