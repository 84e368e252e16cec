"""Calls that take turns, and the ratios of their times."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from engine.errors import UserError

SHORTEST = 0.02  # seconds that one measurement lasts at least

Times = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Setting:
    """What a benchmark is run with.

    Attributes:
        batch: images. size: their side in pixels. rounds: how often everybody's turn comes, 2 or more.
    """

    batch: int
    size: int
    rounds: int
    device: torch.device
    dtype: torch.dtype

    def images(self) -> torch.Tensor:
        """(batch, 3, size, size), channels last, float32."""
        images = torch.randn(self.batch, 3, self.size, self.size, device=self.device)
        return images.contiguous(memory_format=torch.channels_last)


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call, by name, a round of all of them after the other; the first two rounds, which warm up, are
    left out. Short calls are repeated within a measurement."""

    def seconds_of(call, repeats):
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) / repeats

    times = {name: [] for name in calls}
    repeats = 1
    for turn in tqdm(range(rounds + 2), desc="measuring", leave=False, disable=None):
        seconds = {name: seconds_of(call, repeats) for name, call in calls.items()}
        if turn == 1:
            repeats = math.ceil(SHORTEST / min(seconds.values()))
        if turn >= 2:
            for name, value in seconds.items():
                times[name].append(value)
    return times


def medians(times: Times) -> dict[str, float]:
    return {name: round(statistics.median(values), 6) for name, values in times.items()}


def ratio(times: Times, over: str, under: str) -> dict:
    """One call's time over another's, each round on its own: {"median", "quartiles"}."""
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)[::2]
    return {"median": round(statistics.median(ratios), 3), "quartiles": [round(q, 3) for q in quartiles]}


def faster(ours: Callable, theirs: Callable, setting: Setting) -> dict:
    """Ours and a peer's: seconds of each, and how many times as fast ours is."""
    times = take_turns({"ours": ours, "theirs": theirs}, setting.rounds, setting.device)
    return {"seconds": medians(times), "times_as_fast": ratio(times, "theirs", "ours")}


def import_peer(module: str):
    """A peer's module. Raises UserError that says how to get it."""
    try:
        return __import__(module)
    except ImportError as error:
        raise UserError(f'{module} is not installed: pip install -e ".[dev]"') from error
