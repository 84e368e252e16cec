"""What a run goes through whatever its task: begun, trained or evaluated, and written down."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from fvcore.common.config import CfgNode
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.dialect import load_config
from engine.config.se import se_config
from engine.device import choose_device
from engine.errors import UserError
from engine.json_files import write_json
from engine.report.summary import write_summary
from engine.run.folder import (
    announce,
    check_is_folder,
    forget_overwritten,
    open_run,
    provenance,
    restore_overwritten,
    results,
    versions,
)
from engine.run.initial_weights import find_trained_weights, preprocessing
from engine.task import TaskInfo
from engine.train.checkpoint import load_checkpoint
from engine.train.launch import join_processes, leave_processes, once
from engine.train.logs import make_writers, setup_logging
from engine.train.memory import keep_freed_memory
from engine.train.trainer import Task, Trainer

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
    device = join_processes(choose_device(cfg.MODEL.DEVICE))
    if device.type == "cpu":
        keep_freed_memory()
    try:
        return evaluate(options, cfg, device) if options.eval_only else train(options, cfg, device)
    except BaseException:
        if comm.is_main_process() and not options.eval_only:
            restore_overwritten(Path(cfg.OUTPUT_DIR))
        raise
    finally:
        leave_processes()


def on_device(cfg: CfgNode, device: torch.device) -> CfgNode:
    """The config with this process's own device, to build from; what is kept of a run has the device that was asked
    for, which may be ``auto``."""
    return load_config(cfg, None, ["MODEL.DEVICE", str(device)])


def begin_training(options: Options, cfg: CfgNode, device: torch.device, task: TaskInfo) -> tuple[Path, dict | None]:
    """The run folder, and the checkpoint to go on from, if any.

    Raises:
        UserError: as ``open_run``; MODEL.WEIGHTS are of the run that would be overwritten.
    """
    run = Path(cfg.OUTPUT_DIR)
    if options.overwrite and Path(cfg.MODEL.WEIGHTS).resolve() in [path.resolve() for path in results(run, task)]:
        raise UserError(
            f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} are of the run in {run}, which --overwrite deletes; give another "
            "OUTPUT_DIR"
        )
    newest = once(lambda: open_run(run, task, options.resume, options.overwrite))
    checkpoint = load_checkpoint(newest) if newest is not None else None
    setup_logging(run, task.packages)
    announce(cfg, device)
    return run, checkpoint


def begin_evaluation(
    options: Options, cfg: CfgNode, device: torch.device, task: TaskInfo
) -> tuple[Path, str, dict | None]:
    """The folder for an evaluation's results, the name of the weights, and their content where they are a checkpoint
    of this task.

    Raises:
        UserError: as ``find_trained_weights``; OUTPUT_DIR is a file.
    """
    output = Path(cfg.OUTPUT_DIR)
    check_is_folder(output)
    source, checkpoint = find_trained_weights(cfg, output, task.name, "MODEL.WEIGHTS" in options.overrides[::2])
    run = output / "evaluation"  # not among the training's own results
    if comm.is_main_process():
        run.mkdir(parents=True, exist_ok=True)
        (run / "weights_report.json").unlink(missing_ok=True)  # of an earlier evaluation of other weights
    comm.synchronize()
    setup_logging(run, task.packages)
    announce(cfg, device)
    return run, source, checkpoint


def train(trainer: Trainer, task: Task) -> dict:
    """Trains to the end and writes the final weights. Returns the last evaluation's figures; without an evaluation,
    and in all processes but the first, an empty dict."""
    if comm.is_main_process():
        forget_overwritten(trainer.run)
    if trainer.iteration:
        logger.info("going on after step %d of %d", trainer.iteration, trainer.max_iterations)
    figures = trainer.train(task, make_writers(trainer.run, trainer.max_iterations, trainer.iteration))
    if figures is None and task.evaluate is not None:  # resumed behind the last step
        figures = trainer.evaluate(task)
    trainer.save_final(task)
    return figures or {}


def description(task: TaskInfo, cfg: CfgNode, classes: Sequence[str]) -> dict:
    """What a checkpoint says of itself besides its weights."""
    return {
        "task": task.name,
        "backbone": cfg.MODEL.BACKBONE.ARCHITECTURE,
        "se": asdict(se) if (se := se_config(cfg)) else None,  # placement and gate leave no mark on the weights
        "classes": list(classes),
        "preprocessing": preprocessing(cfg),
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
    device: torch.device,
    iteration: int | None,
    seconds: float | None,
    draw: Callable[[], object],
) -> dict:
    """Writes result.json, pictures, plots and the summary, in the first process.

    Args:
        draw: makes the pictures of the run's predictions.

    Returns:
        the content of result.json; an empty dict in all processes but the first.
    """
    if not comm.is_main_process():
        return {}
    how = provenance(cfg, model, device, iteration, seconds)
    result = {**figures, "task": task.name, "dataset": dataset, **how}
    write_json(run / "result.json", result)
    shutil.rmtree(run / "predictions", ignore_errors=True)  # of an earlier evaluation, of other images perhaps
    draw()
    summary = write_summary(run, task)
    logger.info("pictures: %s  plots: %s  summary: %s", run / "predictions", run / "plots", summary)
    return result
