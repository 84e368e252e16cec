"""Checkpoints that are whole or not there, and the search for the newest whole one."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch

from engine.errors import UserError
from se_backbones.files import atomic_path
from se_backbones.weights import WeightsError, load_safely

FORMAT = "se-backbones-checkpoint/1"
_NUMBERED = re.compile(r"checkpoint_(\d{7,})\.pth")

logger = logging.getLogger(__name__)


class NotOurCheckpoint(UserError):
    """A whole file that some other program wrote."""


def checkpoint_path(run: Path, iteration: int) -> Path:
    """Where the checkpoint after ``iteration`` steps lies."""
    return Path(run) / f"checkpoint_{iteration:07d}.pth"


def save_checkpoint(path: Path, content: dict) -> Path:
    """Writes a checkpoint so that a kill leaves the old file, or the new one, and nothing between.

    Args:
        content: tensors, numbers, strings, and dicts and lists of them; nothing that loading would have to run.
    """
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)
    return Path(path)


def add_to_checkpoint(path: Path, **more: object) -> None:
    """Adds entries, of the kinds that ``save_checkpoint`` takes, to one of our own checkpoints; a kill leaves the old
    file or the new one. Raises UserError, as ``load_checkpoint``."""
    save_checkpoint(path, {**load_checkpoint(path), **more})


def load_checkpoint(path: Path) -> dict:
    """Reads one of our own checkpoints onto the CPU, as ``se_backbones.weights.load_safely`` reads any weights.

    Nothing in the file is run, every byte's checksum is checked, and every size before memory is taken for it.

    Raises:
        NotOurCheckpoint: readable, but not one of ours.
        UserError: missing, damaged, or with content that would have to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}")
    try:
        content = load_safely(path)
    except WeightsError as error:
        raise UserError(f"checkpoint {error}; take another one of its run folder") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise NotOurCheckpoint(f"{path} is no checkpoint of this package (its format entry is not {FORMAT!r})")
    return content


def numbered_checkpoints(run: Path) -> list[Path]:
    """The periodic checkpoints of a run folder, newest first, damaged ones too."""
    found = [
        (int(match[1]), path)
        for path in Path(run).glob("checkpoint_*.pth")
        if (match := _NUMBERED.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint that can be read whole; a damaged one is passed over with a warning."""
    for path in numbered_checkpoints(run):
        try:
            load_checkpoint(path)
            return path
        except UserError as error:
            logger.warning("%s; trying the one before it", error)
    return None


def remove_old_checkpoints(run: Path, keep: int) -> None:
    """Removes all but the newest ``keep`` periodic checkpoints."""
    for path in numbered_checkpoints(run)[max(keep, 1) :]:
        path.unlink(missing_ok=True)
