"""A split that lies in shards, found and read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classification.index.cache_folder import stored_indices
from classification.index.columns import DESCRIPTION, DamagedIndex, read_description, read_index
from classification.index.folders import subfolders
from classification.index.shard_files import shard_name
from classification.index.split import Batch, Split, SplitNotFound
from engine.errors import UserError

MADE_OF = "made_of.json"
IMAGES = "images"  # the folder of names, labels and places is this, a dot, and its identity
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class ShardSplit(Split):
    """A split in shards.

    Attributes:
        image_root: the folder of the shards.
        stored: that of the images' names, labels and places, see ``index.columns``.
        made: [bytes, images] of each shard.
    """

    stored: Path
    made: list[list[int]]

    @property
    def shards(self) -> list[list[int]]:
        """[bytes, images] of each shard."""
        return self.made

    @property
    def source(self) -> str:
        """The folder of the shards."""
        return str(self.image_root)

    def key(self) -> dict:
        """The identity of what lies beside the shards: names, labels, classes, places and sizes."""
        return {"identity": read_stored(self.stored, read_description)["identity"]}

    def read(self, folders: dict[str, int], times: dict[str, int], passed_over: Counter[str]) -> Iterator[Batch]:
        """The images in the order in which they were when the shards were made."""
        description = os.path.join(self.stored.name, DESCRIPTION)
        times[description] = os.stat(self.image_root / description).st_mtime_ns
        description, columns = read_stored(self.stored, read_index)
        folders |= {name: number for number, name in enumerate(description["folders"])}
        passed_over.update(description["passed_over"])
        yield from columns.batches()


def find_shards(root: Path, split: str, images: str = "auto") -> ShardSplit | None:
    """The shards ``root/split``; None where ``root`` has no shards.

    Args:
        images: "auto"; another size is not found, as what shards were made of has one size.

    Raises:
        SplitNotFound: there are shards of other splits alone.
        UserError: the shards were not made to the end, by another tool, or are damaged.
    """
    folder = root / split
    if unfinished_folder(folder).is_dir() and not folder.is_dir():
        raise UserError(
            f"{unfinished_folder(folder)} was not made to its end: give the command of tools/make_shards.py again, "
            "which goes on"
        )
    if not _has_shards(folder):
        if others := splits_in(root):
            raise SplitNotFound(f"{root} has shards of {', '.join(others)}, and none of the split {split!r}")
        return None
    if images != "auto":
        raise UserError(f"{folder} has shards, whose images have one size: DATA.IMAGES must be auto, not {images!r}")
    stored = stored_indices(folder / IMAGES)
    if not stored:
        raise UserError(
            f"{folder} has shards, and not the names and labels that tools/make_shards.py puts beside them: copy the "
            "folder again, or make it of the images"
        )
    description = read_stored(stored[0], read_description)
    return ShardSplit(split, folder, description["classes"], stored[0], description["shards"])


def splits_in(root: Path) -> list[str]:
    """The splits that lie in shards in a folder; none where it is no folder."""
    return [name for name in subfolders(root) if _has_shards(root / name)] if root.is_dir() else []


def unfinished_folder(folder: Path) -> Path:
    """What a folder of shards is called while it is made."""
    return folder.with_name(folder.name + UNFINISHED)


def _has_shards(folder: Path) -> bool:
    return folder.suffix != UNFINISHED and (folder / shard_name(0)).is_file()


def read_stored(stored: Path, read: Callable[[Path], Any]) -> Any:
    """What a reader of ``index.columns`` reads. Raises UserError where it is damaged."""
    try:
        return read(stored)
    except (DamagedIndex, OSError) as error:
        raise UserError(f"{stored} is damaged ({error}): copy the shards again, or make them anew") from None
