"""Batches out of worker processes that outlive a stop request, and whose errors a person can read."""

from __future__ import annotations

import atexit
import mmap
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from engine.errors import UserError

T = TypeVar("T")

# Memory that worker processes share: 1 from when this process exits, which is when it ends them by SIGTERM.
_exiting = mmap.mmap(-1, 1)
atexit.register(_exiting.__setitem__, 0, 1)


def load_batches(
    dataset: Dataset, batches: Iterable, collate: Callable[[list], T], workers: int, pin_memory: bool = False
) -> Iterator[T]:
    """The batches of a data set, made by worker processes.

    Args:
        batches: the positions of each batch's items, a sequence for each.
        collate: a batch's items → the batch.
        workers: how many processes; with 0, this process makes the batches.
        pin_memory: give tensors in page-locked memory, from which a copy to a GPU need not wait.

    Raises:
        UserError: while iterating, the data set raised one; without the worker's traceback.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        # A forked worker shares the data set with this process; no copy is made, nothing is sent.
        multiprocessing_context="fork" if workers else None,
    )
    return _without_traceback(loader)


def _without_traceback(batches: Iterable[T]) -> Iterator[T]:
    """The same batches; a UserError out of a worker process is raised with its own message.

    A worker hands its exception on with the traceback as the message, of which a person needs what comes last. A
    subclass of UserError arrives as a plain one, unless no worker was involved.
    """
    try:
        yield from batches
        return
    except UserError as error:
        if not str(error).startswith("Caught "):  # raised in this process
            raise
        # The last line that names the exception: an error that caused this one is printed above it.
        said = re.split(rf"^(?:\w+\.)*{type(error).__name__}: ", str(error), flags=re.MULTILINE)[-1]
        error.with_traceback(None)  # which would keep the loader and its workers
    raise UserError(said.strip())


def _start_worker(worker: int) -> None:
    """One thread a worker, since there are as many workers as there are cores to use; and signals are the training
    process's to answer.

    A terminal, torchrun and schedulers signal the workers too. The training process ends by a checkpoint, after the
    step that it is in, for which it needs them; they end with it.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_at_exit)


def _end_at_exit(_number, _frame) -> None:
    if _exiting[0]:
        os._exit(0)
