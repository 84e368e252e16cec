"""What every data loader with worker processes needs: workers that keep to one core, and errors a person can read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

import cv2
import torch

from .errors import UserError

T = TypeVar("T")


def start_worker(worker: int) -> None:
    """A ``worker_init_fn``: one thread a worker, since there are as many workers as there are cores to use.

    They are a process group of their own: torchrun sends SIGTERM to the training process's group, and that process
    answers by a checkpoint, but for workers that died first, in the middle of a step. They end with it.
    """
    os.setpgrp()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def without_traceback(batches: Iterable[T]) -> Iterator[T]:
    """The same batches; a UserError out of a worker process is raised with its own message.

    A worker hands its exception on with the traceback as the message, of which a person needs what comes last. A
    subclass of UserError arrives as a plain one, unless no worker was involved.
    """
    try:
        yield from batches
    except UserError as error:
        if not str(error).startswith("Caught "):  # raised in this process
            raise
        # The last line that names the exception: an error that caused this one is printed above it.
        said = re.split(rf"^(?:\w+\.)*{type(error).__name__}: ", str(error), flags=re.MULTILINE)[-1]
        raise UserError(said.strip()) from None
