"""The parts of a soak, how each is run, and what is kept of it."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.device import hardware
from engine.run.folder import command, versions
from soak.checkpoints import prepare_checkpoints
from soak.disk import prepare_disk
from soak.inputs import prepare_inputs
from soak.kills import prepare_kills, prepare_terminations
from soak.pool import Trial, try_all

_SECONDS_A_LINE = 15


@dataclass(frozen=True)
class Part:
    """One kind of trials.

    Attributes:
        what: what is tried, and what has to come of it.
        count: how many make a full soak.
        limit: seconds after which a trial counts as a hang.
        prepare: (folder) → the trial; makes what all trials share.
    """

    what: str
    count: int
    limit: float
    prepare: Callable[[Path], Trial]


PARTS = {
    "kills": Part(
        "kill -9 at random moments of training, and resume until done: weights bit-equal to an uninterrupted run's",
        100,
        900,
        prepare_kills,
    ),
    "checkpoints": Part(
        "weights files cut, flipped or overwritten: read equal or refused with a WeightsError; the newest whole "
        "checkpoint of a run folder is found",
        1000,
        60,
        prepare_checkpoints,
    ),
    "inputs": Part(
        "COCO files, detections, class lists and folders, pictures, and archives changed at random: read or refused "
        "with a message, no input changed",
        10000,
        60,
        prepare_inputs,
    ),
    "disk": Part(
        "a disk that fills while training, predicting and converting: exit code 2 with a message, nothing torn, and "
        "the work done bit-equal once there is room",
        96,
        600,
        prepare_disk,
    ),
    "terminate": Part(
        "SIGTERM to one process of two: both end, their work is saved, a resumed run is bit-equal",
        16,
        600,
        prepare_terminations,
    ),
}


def soak(names: Sequence[str], count: int | None, seed: int, processes: int) -> dict:
    """Runs parts one after the other, and tells on stderr how far they are.

    Args:
        names: of ``PARTS``.
        count: trials of each; None for a full soak. Of "kills" it is the number of kills.
        seed: of the first trial; the next ones have seed + 1, ….
        processes: trials at a time.

    Returns:
        for JSON: whether all went well, each part's counts and faults, and how it came about.
    """
    begin = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        parts = {name: _run(name, PARTS[name], count, seed, folder / name, processes) for name in names}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "check": "soak",
        "passed": not any(part["faults"] for part in parts.values()),
        "seed": seed,
        "parts": parts,
        "seconds": round(time.perf_counter() - begin),
        "command": command(),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }


def _run(name: str, part: Part, count: int | None, seed: int, folder: Path, processes: int) -> dict:
    count = part.count if count is None else count
    begin = time.perf_counter()
    folder.mkdir(parents=True)
    _say(f"{name}: {part.what}")
    trial = part.prepare(folder)
    results: dict[str, Counter] = {}
    faults, done, last = [], 0, time.perf_counter()
    began = last
    for used, outcome in try_all(trial, seed, count, folder / "trials", processes, part.limit):
        done += outcome.weight
        results.setdefault(outcome.kind or "unknown", Counter())[outcome.result] += 1
        if outcome.fault:
            again = f"python tools/soak.py {name} --count 1 --seed {used}"
            faults.append({"seed": used, "kind": outcome.kind, "fault": outcome.fault, "again": again})
            _say(f"FAULT {outcome.kind} {outcome.result} ({again})\n{outcome.fault}")
        now = time.perf_counter()
        if now - last > _SECONDS_A_LINE and done:
            left = (now - began) / done * max(count - done, 0)
            _say(f"{name}: {done} of {count}, {len(faults)} faults, eta {left // 60:.0f}:{left % 60:02.0f}")
            last = now
    seconds = round(time.perf_counter() - begin, 1)
    _say(f"{name}: {done} done in {seconds:.0f} s, {len(faults)} faults")
    counts = {kind: dict(sorted(found.items())) for kind, found in sorted(results.items())}
    return {"what": part.what, "count": done, "seconds": seconds, "outcomes": counts, "faults": faults}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
