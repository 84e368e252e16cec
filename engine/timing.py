"""Calls that take turns, and the ratios of their times."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from tqdm import tqdm

SHORTEST = 0.02  # seconds that one measurement lasts at least

Times = Mapping[str, Sequence[float]]


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
