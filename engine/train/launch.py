"""Processes: torchrun starts them, torch.distributed joins them."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.train.stopping import GRACE, Stopped

from detectron2.utils import comm

T = TypeVar("T")


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def relaunch(num_processes: int, device: torch.device) -> int | None:
    """Runs this command again as several processes on this machine, through torchrun's launcher.

    Returns:
        the exit code of the first process that failed, or 0; None where there is nothing to start, since one process
        is enough or this one was started so: the caller then does the work itself.

    Raises:
        UserError: fewer than one process, or more than there are GPUs on a run on GPUs.
    """
    if num_processes < 1:
        raise UserError(f"--num-gpus must be at least 1; got {num_processes}")
    if num_processes == 1 or under_torchrun():
        return None
    if device.type == "cuda" and num_processes > torch.cuda.device_count():
        raise UserError(f"--num-gpus {num_processes}: this machine has {torch.cuda.device_count()}")
    # The processes say themselves what went wrong; the launcher's own report would bury it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # By default it kills processes that have not ended 30 s behind a SIGTERM, and their checkpoint is lost.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE))
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // num_processes, 1)))
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(settings, sys.executable)(*sys.argv)
    except ChildFailedError as error:
        return min(error.failures.values(), key=lambda failure: failure.timestamp).exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0


def join_processes(device: torch.device) -> torch.device:
    """Joins torchrun's processes: nccl on GPUs, gloo on CPUs. Without torchrun it does nothing.

    Returns:
        this process's own device.
    """
    if not under_torchrun():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        # An hour: an evaluation's figures are computed by one process while the others wait.
        dist.init_process_group(backend, timeout=timedelta(hours=1))
    return device


def leave_processes() -> None:
    """The opposite of ``join_processes``."""
    if dist.is_initialized():
        # Detectron2 keeps the group for its own use. Its threads would live on into the interpreter's end, where one of
        # them, with a tensor to free, now and then aborts the process, after all is done.
        comm._get_global_gloo_group.cache_clear()
        dist.destroy_process_group()


@contextmanager
def joined_processes(device: torch.device) -> Iterator[torch.device]:
    """A block with torchrun's processes joined, and this process's own device. Within another such block, several runs
    one after the other say, they stay joined for that one."""
    outermost = not dist.is_initialized()
    try:
        yield join_processes(device)
    finally:
        if outermost:
            leave_processes()


def once(function: Callable[[], T]) -> T:
    """Calls a function in the first process and gives its result to all; a UserError there is raised in all.
    All must call it."""
    result = trouble = None
    if comm.is_main_process():
        try:
            result = function()
        except UserError as error:
            trouble = error
    if comm.get_world_size() > 1:
        outcome = [result, None if trouble is None else str(trouble)]
        dist.broadcast_object_list(outcome, src=0)
        if not comm.is_main_process():
            result, trouble = outcome[0], None if outcome[1] is None else UserError(outcome[1])
    if trouble is not None:
        raise trouble
    return result


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in at least one process. All of them must call it."""
    if comm.get_world_size() == 1:
        return flag
    tensor = torch.tensor([int(flag)], device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return bool(tensor.item())


def of_any_process(value: T | None) -> T | None:
    """The value of the first process that has one. All of them must call it."""
    return next((found for found in comm.all_gather(value) if found is not None), None)


def shows_progress() -> bool:
    """Whether a progress bar has somebody to look at it: in the first process, on a terminal."""
    return comm.is_main_process() and sys.stderr.isatty()


@contextmanager
def raising_everywhere(device: torch.device) -> Iterator[None]:
    """A block that each process goes through with its own share: a UserError in one is raised in all, at the end of
    the block. All must enter it. A run that is to stop (Stopped) does so at once."""
    trouble = None
    try:
        yield
    except UserError as error:
        if isinstance(error, Stopped):
            raise
        trouble = error
    raise_everywhere(trouble, device)


def raise_everywhere(error: UserError | None, device: torch.device) -> None:
    """Raises in all processes where one of them has an error, with what each of them says. All must call it."""
    if any_process(error is not None, device):
        messages = comm.all_gather(str(error) if error is not None else "")
        raise UserError("; ".join(dict.fromkeys(filter(None, messages))))
