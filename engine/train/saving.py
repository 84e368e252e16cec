"""Checkpoints written while the steps go on."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from engine.train.checkpoint import remove_old_checkpoints, save_checkpoint

logger = logging.getLogger(__name__)


class CheckpointSaver:
    """Writes checkpoints in a thread, one at a time, so that a step waits for a copy in memory and not for the disk.

    What is saved is the state when ``save`` is called, whatever becomes of the tensors. Until the file is whole and in
    its place, those before it are (see ``save_checkpoint``): a kill while it is written loses none of them. Within a
    ``with`` block, the end of the block waits for the file.

    Args:
        took: is told, in the thread, how many seconds each file took.
    """

    def __init__(self, took: Callable[[float], object] = lambda seconds: None):
        self._took = took
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, path: Path, content: dict, keep: int) -> None:
        """Copies the content and begins to write it; where the file before is not written yet, waits for that.

        Args:
            path: a periodic checkpoint's, see ``checkpoint_path``.
            content: as ``save_checkpoint``; the tensors may be on any device.
            keep: how many of the periodic checkpoints stay, this one included; older ones are removed behind it.

        Raises:
            Exception: what the writing of the file before failed with.
        """
        self.wait()
        # Not a daemon: an interpreter that ends waits for the file.
        self._thread = threading.Thread(target=self._write, args=(path, snapshot(content), keep), name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raises what a writing failed with, once; waits for nothing."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Waits until the file is in its place. Raises as ``check``."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _write(self, path: Path, content: dict, keep: int) -> None:
        try:
            begin = time.perf_counter()
            save_checkpoint(path, content)
            self._took(time.perf_counter() - begin)
            remove_old_checkpoints(path.parent, keep)
        except Exception as error:
            self._error = error

    def __enter__(self) -> CheckpointSaver:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            logger.error("and the last checkpoint could not be written: %s", error)  # beside what ended the block


def snapshot(content):
    """The same dicts, lists and values with copies of the tensors on the CPU.

    Tensors that are one tensor under several names (tied weights) are so in the copy: the file is no larger.
    """
    return _snapshot(content, {})


def _snapshot(value, copies: dict):
    if isinstance(value, Tensor):
        value = value.detach()
        key = value.device, value.data_ptr(), value.dtype, value.shape, value.stride()
        if key not in copies or not value.numel():
            copies[key] = value.to("cpu", copy=True, memory_format=torch.preserve_format)
        return copies[key]
    if isinstance(value, dict):
        copied = copy.copy(value)  # a state_dict has its modules' versions as an attribute
        for name, entry in value.items():  # not `update`, with which a scheduler's Counter would count
            copied[name] = _snapshot(entry, copies)
        return copied
    if isinstance(value, list | tuple):
        return type(value)(_snapshot(entry, copies) for entry in value)
    return value
