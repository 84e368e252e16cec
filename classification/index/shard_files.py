"""The files of a split in shards: which one holds an image, opened when it is needed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from classification.index.archive_file import ArchiveFile, Stamp, stamp_of
from engine.errors import UserError

MAX_OPEN = 256  # shards; a process may often have 1,024 files open


def shard_name(number: int) -> str:
    """The file's name, as mosaicml-streaming's writer gives it."""
    return f"shard.{number:05d}.mds"


class ShardFiles:
    """Shards with consecutive images each.

    At most MAX_OPEN of them are open in a process. The place of one among those is its number modulo MAX_OPEN: as an
    order at random asks for all of them alike, the one that was used last is no better to keep.

    Args:
        folder: that they lie in.
        shards: [bytes, images] of each, as they were made.

    Raises:
        UserError: one is missing, or has another size.
    """

    def __init__(self, folder: Path, shards: Sequence[Sequence[int]]):
        self._stamps = [_checked(folder / shard_name(number), size) for number, (size, _) in enumerate(shards)]
        self._ends = list(accumulate(images for _, images in shards))
        self._open: list[tuple[int, ArchiveFile] | None] = [None] * min(MAX_OPEN, len(shards))

    def path(self, index: int) -> Path:
        """The shard that holds the image at this position of the index."""
        return Path(self._stamps[bisect_right(self._ends, index)].path)

    def file_of(self, index: int) -> ArchiveFile:
        """The same, to read from."""
        number = bisect_right(self._ends, index)
        held = self._open[number % len(self._open)]
        if held is None or held[0] != number:
            held = self._open[number % len(self._open)] = number, ArchiveFile(self._stamps[number], "shard")
        return held[1]


def _checked(path: Path, size: int) -> Stamp:
    if not path.exists():
        raise UserError(f"there is no shard {path}: the set is not whole. Copy it again, or make it anew")
    stamp = stamp_of(path)
    if stamp.size != size:
        raise UserError(
            f"the shard {path} has {stamp.size:,} bytes, and was made with {size:,}: it is cut off or was changed. "
            "Copy it again, or make the set anew"
        )
    return stamp
