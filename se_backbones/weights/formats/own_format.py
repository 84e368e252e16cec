"""How this project's own files are known."""

from __future__ import annotations

from collections.abc import Mapping

WEIGHTS_FORMAT = "se-backbones-weights/1"  # convert_file's
CHECKPOINT_FORMAT = "se-backbones-checkpoint/1"  # a training's


def is_ours(beside: Mapping) -> bool:
    """Whether the values beside a file's tensors are of this project's writers: their ``format`` says so. What other
    files say of themselves, under the same names, may mean anything."""
    return beside.get("format") in (WEIGHTS_FORMAT, CHECKPOINT_FORMAT)
