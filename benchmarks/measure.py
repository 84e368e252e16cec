"""What a benchmark is run with, and how it is compared with a peer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from engine.errors import UserError
from engine.timing import medians, ratio, take_turns


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


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch and OpenCV on one thread each, as in a loader's worker."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def data_folder() -> Path:
    """Where the data sets of benchmarks lie: SE_DATA."""
    return Path(os.environ.get("SE_DATA", "../shared/data"))


def image_rates(batches: Mapping[str, Callable], steps: int, setting: Setting, base: str) -> dict[str, dict]:
    """Images a second of wall and of processor time, medians over the rounds, and of their ratios to those of ``base``
    in the same round.

    Args:
        batches: what makes a batch of ``setting.batch`` images. They take turns, now in one order, now in the other:
            who comes first finds the processor's caches swept.
        steps: batches of each in a round; the first round warms up.
    """
    rates: dict[str, list] = {name: [] for name in batches}
    orders = cycle([list(batches), list(batches)[::-1]])
    for turn in tqdm(range(setting.rounds + 1), desc="measuring", leave=False, disable=None):
        spent = {name: np.zeros(2) for name in batches}
        for _, order in zip(range(steps), orders, strict=False):
            for name in order:
                begin = time.perf_counter(), time.process_time()
                batches[name]()
                spent[name] += time.perf_counter() - begin[0], time.process_time() - begin[1]
        if turn:
            for name, seconds in spent.items():
                rates[name].append(steps * setting.batch / seconds)
    found = {}
    for name, values in rates.items():
        wall, processor = np.median(values, axis=0)
        ratios = (np.array(values) / np.array(rates[base]))[:, 0]
        found[name] = {
            "images_per_second": round(float(wall), 1),
            "images_per_processor_second": round(float(processor), 1),
            "times_as_many": {
                "median": round(float(np.median(ratios)), 3),
                "quartiles": [round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.75))],
            },
        }
    return found


def faster(ours: Callable, theirs: Callable, setting: Setting) -> dict:
    """Ours and a peer's: seconds of each, and how many times as fast ours is."""
    times = take_turns({"ours": ours, "theirs": theirs}, setting.rounds, setting.device)
    return {"seconds": medians(times), "times_as_fast": ratio(times, "theirs", "ours")}


def import_peer(module: str):
    """A peer's module. Raises UserError that says how to get it."""
    try:
        return __import__(module)
    except ImportError as error:
        raise UserError(f'{module} is not installed: pip install -e ".[dev,export]"') from error
