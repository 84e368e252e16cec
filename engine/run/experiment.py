"""What a run goes through whatever its task: begun, trained or evaluated, and written down."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from fvcore.common.config import CfgNode
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.dialect import load_config
from engine.config.se import se_config
from engine.device import choose_device, choose_precision
from engine.errors import UserError
from engine.json_files import write_json
from engine.logs.run_log import setup_logging
from engine.logs.trackers import Tracker, begin_trackers, check_loggers, ending_if_refused
from engine.logs.writers import make_writers
from engine.report.card import write_card
from engine.report.summary import write_summary
from engine.run.folder import announce, check_can_hold, open_run, provenance, results, versions
from engine.run.initial_weights import find_trained_weights
from engine.run.start import Start
from engine.run.statements import leaves, preprocessing, unmarked_settings
from engine.task import TaskInfo
from engine.train.checkpoint import load_checkpoint
from engine.train.launch import joined_processes, once
from engine.train.memory import keep_freed_memory
from engine.train.stopping import Stopped
from engine.train.trainer import Task, Trainer
from se_backbones.weights import WeightsFile

from detectron2.utils import comm

logger = logging.getLogger(__name__)


@dataclass
class Options:
    """The command line of a run, as ``engine.run.command_line`` gives it."""

    config: str | None = None
    overrides: Sequence[str] = field(default_factory=list)
    eval_only: bool = False
    resume: bool = False
    overwrite: bool = False


AnyOptions = TypeVar("AnyOptions", bound=Options)
Part = Callable[[AnyOptions, CfgNode, torch.device], dict]


def run_experiment(
    options: AnyOptions, load_task_config: Callable[[str | None, Sequence[str]], CfgNode], train: Part, evaluate: Part
) -> dict:
    """Reads the config, joins torchrun's processes where there are some, and trains, or evaluates alone.

    Returns:
        what ``train`` or ``evaluate`` does.
    """
    cfg = load_task_config(options.config, options.overrides)
    with joined_processes(choose_device(cfg.MODEL.DEVICE)) as device:
        if device.type == "cpu":
            keep_freed_memory()
        return evaluate(options, cfg, device) if options.eval_only else train(options, cfg, device)


def on_device(cfg: CfgNode, device: torch.device) -> CfgNode:
    """The config with this process's own device, to build from; what is kept of a run has the device that was asked
    for, which may be ``auto``."""
    return load_config(cfg, None, ["MODEL.DEVICE", str(device)])


def begin_training(options: Options, cfg: CfgNode, device: torch.device, task: TaskInfo) -> Start:
    """The start of a training, with the checkpoint to go on from, if any.

    Raises:
        UserError: as ``open_run``; MODEL.WEIGHTS are of the run that would be overwritten; a precision that the device
            does not have.
    """
    _check_precisions(cfg, device, "SOLVER", "TEST")
    run = Path(cfg.OUTPUT_DIR)
    if options.overwrite and Path(cfg.MODEL.WEIGHTS).resolve() in [path.resolve() for path in results(run, task)]:
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} are of the run in {run}, which --overwrite deletes; give another "
            "OUTPUT_DIR"
        )
    setup_logging(task.packages)
    once(lambda: check_loggers(cfg.LOGGERS))
    newest = once(lambda: open_run(run, task, options.resume, options.overwrite))
    start = Start(run, task, load_checkpoint(newest) if newest is not None else None)
    announce(cfg, device)
    return start


def begin_evaluation(options: Options, cfg: CfgNode, device: torch.device, task: TaskInfo) -> tuple[Start, WeightsFile]:
    """The start of an evaluation, and the weights to evaluate.

    Raises:
        UserError: as ``find_trained_weights``; OUTPUT_DIR is a file, or cannot be written to; a precision that the
            device does not have.
    """
    _check_precisions(cfg, device, "TEST")
    output = Path(cfg.OUTPUT_DIR)
    check_can_hold(output)
    setup_logging(task.packages)
    weights = find_trained_weights(cfg, output, "MODEL.WEIGHTS" in options.overrides[::2])
    start = Start(output / "evaluation", task, evaluates=True)  # not among the training's own results
    announce(cfg, device)
    return start, weights


def _check_precisions(cfg: CfgNode, device: torch.device, *groups: str) -> None:
    for group in groups:
        try:
            choose_precision(cfg[group].PRECISION, device)
        except UserError as error:
            raise UserError(f"{group}.PRECISION: {error}") from error


def train(start: Start, trainer: Trainer, task: Task, info: TaskInfo, cfg: CfgNode) -> dict:
    """Trains to the end and writes the final weights. Returns the last evaluation's figures with the trainer's
    ``outcome``; in all processes but the first an empty dict.

    Args:
        cfg: as it is kept in the run's folder.
    """
    trackers: list[Tracker] = []
    once(
        lambda: trackers.extend(
            begin_trackers(start.folder, start.staging, cfg.LOGGERS, dict(leaves(cfg)), trainer.iteration)
        )
    )
    with ending_if_refused(trackers):
        start.begin(cfg)
        writers = make_writers(trainer.run, trainer.max_iterations, trainer.iteration, cfg.LOGGERS, trackers)
    if trainer.iteration == trainer.max_iterations:
        logger.warning(
            "all %d steps were made before: nothing is left to train, and the weights are evaluated as they are. A "
            "larger SOLVER.MAX_ITER, or SOLVER.EPOCHS where there is one, goes on",
            trainer.iteration,
        )
    elif trainer.iteration:
        logger.info("going on after step %d of %d", trainer.iteration, trainer.max_iterations)
    trainer.course.limit.began = start.began
    with naming_the_weights(trainer, info):
        figures = trainer.train(task, writers) or {}
    return {**figures, **trainer.outcome} if comm.is_main_process() else {}


@contextmanager
def naming_the_weights(trainer: Trainer, task: TaskInfo) -> Iterator[None]:
    """Says, where something fails after the last step, that the training is not lost, and how to go on."""
    try:
        yield
    except Exception as error:
        if trainer.final is None or isinstance(error, Stopped):
            raise
        config = trainer.run / "config.yaml"
        saved = (
            f"All {trainer.iteration} steps were made, and the weights are in {trainer.final}. To evaluate them: "
            f"python {task.train_command} --config {config} --eval-only; the command of the training with --resume "
            "goes on with the evaluation, too"
        )
        if isinstance(error, UserError):
            raise UserError(f"{error}\n{saved}") from error
        logger.error("what comes after the training failed (%s). %s", type(error).__name__, saved)
        raise


def description(task: TaskInfo, cfg: CfgNode, classes: Sequence[str]) -> dict:
    """What a checkpoint says of itself besides its weights."""
    return {
        "task": task.name,
        "backbone": cfg.MODEL.BACKBONE.ARCHITECTURE,
        "se": asdict(se) if (se := se_config(cfg)) else None,  # placement and gate leave no mark on the weights
        "widths": [list(width) for width in cfg.MODEL.BACKBONE.WIDTHS],
        "classes": list(classes),
        "preprocessing": preprocessing(cfg),
        "unmarked": unmarked_settings(cfg, task),
        "config": cfg.dump(),
        "versions": versions(),
    }


def finish(
    run: Path,
    figures: dict,
    task: TaskInfo,
    dataset: str,
    cfg: CfgNode,
    model: nn.Module,
    hardware: Sequence[str],
    iteration: int | None,
    seconds: float | None,
    draw: Callable[[], object],
) -> dict:
    """Writes result.json, pictures, plots, the summary and the model's card, in the first process.

    Args:
        hardware: everything that the run was made on, in order.
        draw: makes the pictures of the run's predictions.

    Returns:
        the content of result.json; an empty dict in all processes but the first.
    """
    if not comm.is_main_process():
        return {}
    how = provenance(cfg, model, hardware, iteration, seconds)
    result = {**figures, "task": task.name, "dataset": dataset, **how}
    write_json(run / "result.json", result)
    shutil.rmtree(run / "predictions", ignore_errors=True)  # of an earlier evaluation, of other images perhaps
    draw()
    places = {"pictures": run / "predictions", "plots": run / "plots", "summary": write_summary(run, task)}
    write_card(run, task)
    logger.info("%s", "  ".join(f"{name}: {path}" for name, path in places.items() if path.exists()))
    return result
