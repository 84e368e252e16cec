"""Processes and what they start: found, ended, and waited for. Linux alone."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_SET_CHILD_SUBREAPER = 36  # prctl's; linux/prctl.h


def adopt_orphans() -> None:
    """From now on a process whose parent ends becomes a child of this one, where ``descendants`` finds it."""
    ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """The processes that one has started, and those that they have, nearest first; ended ones are left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(entry.parent.name))
    found, position = list(children.get(pid, ())), 0
    while position < len(found):
        found += children.get(found[position], ())
        position += 1
    return found


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    """Sends a signal to each that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all() -> list[int]:
    """Kills whatever this process has started, until nothing is left. Returns what was found alive."""
    found = descendants(os.getpid())
    while alive := descendants(os.getpid()):
        kill(alive)
        _reap()
        time.sleep(0.01)
    _reap()
    return found


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def wait_for(pids: list[int], codes: dict[int, int], limit: float) -> bool:
    """Waits for children to end, and puts into ``codes`` what ``waitstatus_to_exitcode`` makes of each. Returns whether
    all have, ``limit`` seconds from now at the latest."""
    end = time.monotonic() + limit
    while True:
        for pid in pids:
            if pid not in codes and (waited := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(waited[1])
        if len(codes) == len(pids) or time.monotonic() > end:
            return len(codes) == len(pids)
        time.sleep(0.01)
