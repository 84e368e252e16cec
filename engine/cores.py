"""The processor's cores, and whether others keep them busy."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
SECONDS = 0.3  # for which the cores are watched
MUCH = 0.7  # of a core, from which on it is somebody else's


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def advice_where_cores_are_shared(threads: int) -> str:
    """What to say to somebody whose threads have to share cores with other processes; "" where they need not, or where
    the system does not tell.

    Threads of one process wait for the last of them at the end of each operation, and so all of them wait for the one
    whose core somebody else has (`tools/benchmark.py waiting`).

    Args:
        threads: that are about to compute. Nothing of this process may compute now.
    """
    busy, cores = busy_cores() if threads > 1 else 0, usable_cores()
    if busy < MUCH or threads + busy < cores + MUCH:
        return ""
    fewer = max(cores - round(busy), 1)
    return (
        f"other processes keep {busy:.1f} of {cores} cores busy, for which PyTorch's {threads} threads will often "
        f"wait, in bf16 for several times a step's own time: OMP_NUM_THREADS={fewer} is faster beside them"
    )


def busy_cores() -> float:
    """How many of the usable cores are busy from now on for SECONDS, on average; 0 where the system does not tell."""
    before = _spent()
    if not before:
        return 0.0
    time.sleep(SECONDS)
    after = _spent()
    busy = 0.0
    for core in before.keys() & after.keys():
        working, resting = (now - then for now, then in zip(after[core], before[core], strict=True))
        busy += working / max(working + resting, 1)
    return busy


def _spent() -> dict[int, tuple[int, int]]:
    """Ticks of each usable core since it was started: those in which it worked and those in which it rested (proc(5):
    user, nice, system, idle, iowait, irq, softirq, steal, and guests', which user and nice have already)."""
    try:
        lines = STAT.read_text().splitlines()
    except OSError:
        return {}
    usable, spent = os.sched_getaffinity(0), {}
    for line in lines:
        name, *ticks = line.split() or [""]
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in usable:
            user, nice, system, idle, waiting, *others = map(int, ticks[:8])
            spent[int(name[3:])] = user + nice + system + sum(others), idle + waiting
    return spent
