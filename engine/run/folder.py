"""A run's folder: whether it may be used, what it began with, and what it came to."""

from __future__ import annotations

import logging
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from engine.cores import advice_where_cores_are_shared
from engine.device import describe_device
from engine.errors import UserError
from engine.names import class_name, look_alike
from engine.report import card
from engine.task import TaskInfo
from engine.train.checkpoint import newest_checkpoint, numbered_checkpoints
from se_backbones.files import write_atomically
from se_backbones.text import writable

logger = logging.getLogger(__name__)

_OURS = (  # what only a run that has begun leaves, besides the predictions of the task
    "checkpoint_*.pth",
    "model_final.pth",
    "model_best.pth",
    "metrics.jsonl",
    "result.json",
    "events.out.tfevents*",
    "summary.html",
)
# What it has, too.
_BESIDE = ("log.txt*", "loggers.json", "config.yaml", "predictions", "plots", "analysis", "evaluation")
_KERNELS = ("ipykernel_launcher.py", "colab_kernel_launcher.py")  # what Jupyter starts for a notebook


def check_demo_folder(run: Path, marker: str, task: TaskInfo) -> None:
    """Raises UserError where a folder holds a run, and not ``marker``, what only a demonstration leaves there."""
    old = results(run, task)
    if old and not (Path(run) / marker).exists():
        raise UserError(
            f"{run} already holds a run that is no demonstration's ({old[0].name}), and is left alone; name another "
            f"folder: OUTPUT_DIR …"
        )


def check_can_hold(run: Path) -> None:
    """Raises UserError where a run's folder is a file, has a name that not all that a run writes can be given, or
    where neither it nor the folder to make it in can be written to."""
    if writable(str(run)) != str(run):  # TensorBoard's files
        raise UserError(f"OUTPUT_DIR {run}: its name is not UTF-8; name another folder")
    if run.exists() and not run.is_dir():
        raise UserError(f"OUTPUT_DIR {run} is a file; name a folder")
    there = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written to" if there.is_dir() else "is a file"
        raise UserError(f"OUTPUT_DIR {run} cannot be written to: {there} {why}")


def open_run(run: Path, task: TaskInfo, resume: bool, overwrite: bool) -> Path | None:
    """Whether a folder may be used for a run of a task. Nothing in it is changed: see ``engine.run.start.Start``.

    Returns:
        the newest whole checkpoint when resuming; None to start anew.

    Raises:
        UserError: the folder holds a run and neither ``resume`` nor ``overwrite`` was asked for, its checkpoints are
            all damaged, or it cannot be written to.
    """
    run = Path(run)
    check_can_hold(run)
    old = results(run, task)
    if resume:
        checkpoint = newest_checkpoint(run)
        if checkpoint is None and numbered_checkpoints(run):
            raise UserError(f"every checkpoint in {run} is damaged: start anew with --overwrite, or another OUTPUT_DIR")
        if checkpoint is not None or not old:
            return checkpoint
        if not overwrite and any((run / name).exists() for name in ("model_final.pth", "result.json")):
            raise UserError(
                f"{run} holds a finished run, but no checkpoint to go on from. Start in another folder "
                f"(with MODEL.WEIGHTS {run / 'model_final.pth'}), or begin again with --overwrite"
            )
    if old and not overwrite and not resume:
        raise UserError(
            f"{run} already holds a run ({old[0].name}). Go on from it with --resume, begin again with --overwrite, "
            f"or give another folder: OUTPUT_DIR …"
        )
    return None


def results(run: Path, task: TaskInfo) -> list[Path]:
    """The files of a run of a task in its folder; empty where none has begun there. The log of a start that was
    refused, and the listing of what it was refused for, are no run."""
    return _found(run, (*_OURS, task.predictions_file))


def of_the_run(run: Path, task: TaskInfo) -> list[Path]:
    """What the run in a folder consists of, files and folders; empty where none has begun there. What else is in the
    folder, the data of a demonstration say, is none of it."""
    old = results(run, task)
    cards = [path for path in _found(run, (card.NAME,)) if card.is_card(path)]  # a person's README stays
    return [*old, *_found(run, _BESIDE), *cards] if old else []


def unfinished(run: Path) -> list[Path]:
    """What a kill in the middle of a write left behind, in the folder and in those of pictures in it. (An evaluation's
    folder may be another process's, which is at it.)"""
    return _found(run, (".*.part*", "plots/**/.*.part*", "predictions/**/.*.part*", "analysis/**/.*.part*"))


def before_the_run(run: Path, task: TaskInfo) -> list[Path]:
    """What is known before a run begins, and is left by a start that was refused: what is wrong with the data."""
    return _found(run, ("weights_report.json", *task.listings))


def _found(run: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in Path(run).glob(pattern)]


def write_config(run: Path, cfg: CfgNode) -> None:
    """``config.yaml``: every key with the value it has in this run; it can be given as --config."""
    write_atomically(Path(run) / "config.yaml", cfg.dump())


def differing_keys(then: CfgNode, now: CfgNode, prefix: str = "") -> list[str]:
    """Lines ``KEY: old -> new`` for the keys whose values differ, for a run that is resumed."""
    lines = []
    for key, value in now.items():
        if isinstance(value, CfgNode):
            lines += differing_keys(then[key], value, f"{prefix}{key}.")
        elif _lists(value) != _lists(then[key]):
            lines.append(f"{prefix}{key}: {then[key]} -> {value}")
    return lines


def _lists(value):
    """Tuples as lists, which is what they are in a file."""
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def announce(cfg: CfgNode, device: torch.device) -> None:
    """Logs what every run begins with: the command, the device, the backbone."""
    logger.info("%s", command())
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    logger.info("device %s%s", describe_device(device), f", {processes} processes" if processes > 1 else "")
    logger.info("backbone %s", cfg.MODEL.BACKBONE.ARCHITECTURE)
    if device.type == "cpu" and (advice := advice_where_cores_are_shared(torch.get_num_threads())):
        logger.warning("%s", advice)


def announce_changes(then: CfgNode, now: CfgNode) -> None:
    """Logs the keys that differ from those a resumed run began with."""
    if changes := differing_keys(then, now):
        logger.warning("the config differs from the one this run began with:\n  %s", "\n  ".join(changes))


def provenance(
    cfg: CfgNode, model: nn.Module, hardware: Sequence[str], iteration: int | None, seconds: float | None
) -> dict:
    """What ``result.json`` says besides the figures: how they came about.

    Args:
        hardware: everything that it was made on, in order.
    """
    return {
        "backbone": cfg.MODEL.BACKBONE.ARCHITECTURE,
        "parameters": sum(p.numel() for p in model.parameters()),
        "iteration": iteration,
        "training_seconds": None if seconds is None else round(seconds, 1),
        "command": command(),
        "versions": versions(),
        "hardware": ", then ".join(hardware),
    }


def class_difference(first: Sequence[str], second: Sequence[str]) -> str:
    """How two lists of class names differ, in lines; empty where they do not, but for Unicode's forms and escapes."""
    first, second = list(map(class_name, first)), list(map(class_name, second))
    if first == second:
        return ""
    only = [
        f"only in the {place}: {', '.join(names)}"
        for place, names in (
            ("first", [name for name in first if name not in set(second)]),
            ("second", [name for name in second if name not in set(first)]),
        )
        if names
    ]
    if alike := look_alike(set(first) - set(second), set(second) - set(first)):
        only.append(f"nearly the same: {alike}")
    return "\n  ".join(only) or "the same names in another order"


def command() -> str:
    """The command that started this process, as it could be typed again; of a notebook's cell that it was one, as its
    process was started by Jupyter."""
    if Path(sys.argv[0]).name in _KERNELS:
        return "a cell of a notebook"
    script = os.path.relpath(sys.argv[0]) if os.path.isfile(sys.argv[0]) else os.path.basename(sys.argv[0])
    text = shlex.join(["python", script, *sys.argv[1:]])
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return text if processes == 1 else f"torchrun --nproc-per-node {processes} {text.removeprefix('python ')}"


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("se-backbones", "torch", "torchvision", "detectron2", "pb1-detectron2", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
