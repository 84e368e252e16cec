"""The training loop, whatever the task: mixed precision, accumulation, checkpoints, resume, evaluation, logs."""

from __future__ import annotations

import logging
import random
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from engine import compat  # noqa: F401  (before detectron2)
from engine.device import choose_precision, hardware
from engine.errors import UserError
from engine.train.best import BestModel
from engine.train.checkpoint import add_to_checkpoint, checkpoint_path, save_checkpoint
from engine.train.course import Course, due
from engine.train.launch import any_process, of_any_process, raise_everywhere
from engine.train.loop_task import Task
from engine.train.losses import finite_losses, to_floats
from engine.train.optim import KeptStatistics, build_ema, build_optimizer, clip_gradients, share_buffers
from engine.train.plain_numbers import PlainNumbers
from engine.train.sampling import derive_seed
from engine.train.saving import CheckpointSaver
from engine.train.stopping import Stopped, StopRequest

from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter

logger = logging.getLogger(__name__)


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

    Attributes:
        course: when it is evaluated, and when and why it ends.
        best: the best evaluation so far.
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
        self.course, self.best = Course(cfg, self.scheduler, self.device), BestModel(self.run)
        kept_for = cfg.SOLVER.get("FREEZE_NORM_ITERS", 0)  # a key of tasks that want it
        self.kept_statistics = KeptStatistics(model, self.max_iterations - kept_for)
        self.plain_numbers = PlainNumbers(model)
        self.final: Path | None = None  # the final weights, once they are written
        self.saver = CheckpointSaver(lambda seconds: self.course.limit.note("saving", seconds))
        if resume_from is not None:
            self._restore(resume_from)
        self.parallel = model
        if comm.get_world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            with warnings.catch_warnings():  # older releases of PyTorch do not know the option's new name
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
                self.parallel = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)

    @property
    def max_iterations(self) -> int:
        """The step after which the training ends."""
        return self.course.max_iterations

    @property
    def evaluated_model(self) -> nn.Module:
        """The weights that count: the average where EMA is on, else the model's own."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def account(self) -> tuple[list[str], int, float]:
        """How the run was made, over all of its starts: hardware, steps, seconds of training and evaluating."""
        return self.hardware, self.iteration, self.seconds

    @property
    def outcome(self) -> dict:
        """What result.json says of a training besides the figures: why it ended, and its best evaluation."""
        return {"ended": self.course.ended or "all steps were made", "best": self.best.record}

    def train(self, task: Task, writers: list[EventWriter]) -> dict | None:
        """Runs to the end of its ``course``, writes the final weights, evaluates them, and returns the figures; None
        where the task has no evaluation.

        A checkpoint is written before the evaluation at its step and not behind it, and a run that goes on from it
        begins with that evaluation. So a ``Plateau`` or ``Patience`` in a checkpoint has never seen the figure of that
        step, wherever a kill came, and is told it once. The evaluation with which a time limit ends a run between two
        others is told to neither: a run that goes on from there does what it would have done without a limit.

        Raises:
            Stopped: by SIGTERM or Ctrl-C; a checkpoint has been written.
            NonFiniteLoss: with the step, the losses and the images.
        """
        cfg, course, figures = self.cfg, self.course, None
        course.limit.evaluates = task.evaluate is not None
        with EventStorage(self.iteration) as storage, StopRequest() as stop, self.saver:
            try:
                begin = time.perf_counter() - self.seconds
                if self.iteration == self.max_iterations:  # resumed behind the last step
                    self.save_final(task)
                if self.iteration and task.evaluate and course.evaluation_scheduled(self.iteration):
                    figures = self._evaluate_and_log(task, storage, stop)  # a kill may have cut it off
                    for writer in writers:
                        writer.write()
                while self.iteration < self.max_iterations:
                    storage.iter = self.iteration + 1  # figures are numbered by the steps that are done
                    with course.limit.measuring("step"):
                        self._step(task, storage)
                    self.iteration += 1
                    self.seconds = time.perf_counter() - begin
                    self.saver.check()
                    stop_now = any_process(stop.requested, self.device)
                    evaluation_due = task.evaluate and course.evaluation_scheduled(self.iteration)
                    if not evaluation_due and not stop_now:
                        course.end_in_time(self.iteration)
                    done = self.iteration == self.max_iterations
                    evaluation_due = evaluation_due or (task.evaluate and done)
                    if stop_now or evaluation_due or done or due(self.iteration, cfg.SOLVER.CHECKPOINT_PERIOD):
                        self._save(task)  # before an evaluation, which may be long, and may be interrupted
                    if done:
                        self.save_final(task)
                    if stop_now:
                        # Not where an evaluation is due: the line of this step is then that of the next start, with it.
                        if not evaluation_due and due(self.iteration, cfg.LOG_PERIOD):
                            for writer in writers:
                                writer.write()
                        raise Stopped(of_any_process(stop.signal_name), self.iteration, self.run)
                    if evaluation_due:
                        figures = self._evaluate_and_log(task, storage, stop)
                    if evaluation_due or done or due(self.iteration, cfg.LOG_PERIOD):
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

    def _evaluate_and_log(self, task: Task, storage: EventStorage, stop: StopRequest) -> dict:
        step, course = self.iteration, self.course
        self.saver.wait()  # nothing that happens in an evaluation, which forks processes, can harm the file
        with course.limit.measuring("evaluation"):
            with stop.interrupting(lambda name: Stopped(name, step, self.run)):
                figures = self.evaluate(task)
            figure = flatten(figures).get(task.main_figure)  # which the first process alone has
            stated = cache(lambda: task.stated(figures))
            if comm.is_main_process():
                self.best.report(task.main_figure, figure, step, lambda: {**self._weights(task), **stated()})
        storage.put_scalars(**flatten(figures), smoothing_hint=False)
        if course.evaluation_scheduled(step):
            course.report(step, task.main_figure, of_any_process(figure))
        if step < self.max_iterations:
            course.end_in_time(step)
        if step == self.max_iterations and self.final is None:  # this evaluation is the last one
            self.save_final(task)
        if self.final is not None and comm.is_main_process() and stated():
            add_to_checkpoint(self.final, **stated())
        return figures

    def _weights(self, task: Task) -> dict:
        """What a file of weights holds that is to be used: those that are evaluated, without what only training
        needs."""
        return {**task.describe, "iteration": self.iteration, "model": self.evaluated_model.state_dict()}

    def save_final(self, task: Task) -> Path:
        """Writes ``model_final.pth``, the weights that are evaluated."""
        self.saver.wait()
        path = self.run / "model_final.pth"
        if comm.is_main_process():
            with self.course.limit.measuring("saving"):
                save_checkpoint(path, self._weights(task))
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
                losses = finite_losses(self.parallel, task, part, self.iteration + 1, self.device, self.precision)
                self.scaler.scale(sum(losses.values()) / len(parts)).backward()
            for name, value in to_floats(losses).items():
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

    def _save(self, task: Task) -> None:
        numbers = comm.gather(self.plain_numbers.state_dict())  # each process has those of its own images
        if not comm.is_main_process():
            return
        content = {
            **task.describe,
            "iteration": self.iteration,
            "seconds": self.seconds,
            "hardware": self.hardware,
            "evaluation_seconds": self.course.limit.expected("evaluation"),
            "patience": self.course.patience.state_dict(),
            "processes": comm.get_world_size(),
            "model": self.model.state_dict(),
            "plain_numbers": numbers,
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
            if numbers := content.get("plain_numbers"):  # not in checkpoints of earlier versions
                self.plain_numbers.load_state_dict(numbers[comm.get_rank() % len(numbers)])
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
        if "patience" in content:  # not in checkpoints of earlier versions
            self.course.patience.load_state_dict(content["patience"])
        if seconds := content.get("evaluation_seconds"):
            self.course.limit.note("evaluation", seconds)
        if comm.is_main_process():
            self.best.resume()


def flatten(figures: dict) -> dict[str, float]:
    """``{group: {figure: value}}`` → ``{"group/figure": value}``; what is no number is left out."""
    return {
        f"{group}/{name}": value
        for group, values in figures.items()
        if isinstance(values, dict)
        for name, value in values.items()
        if isinstance(value, int | float)
    }
