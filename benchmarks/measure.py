"""What a benchmark is run with, and how it is compared with a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

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
