"""A split: where its images are, what their classes are called, and how it is read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from classification.index.archive import ArchiveFolder
from classification.index.archive_file import Stamp
from engine.errors import UserError


class Batch(NamedTuple):
    """Some images of a split.

    Attributes:
        folder_numbers, labels, names: numbers of their folders, class indices or -1, file names: three lists of one
            length.
        begins, sizes: of a split in an archive or in shards also where in it, or in its shard, each image's bytes
            begin, and how many there are.
        pixels: (n, H, W, 3) RGB uint8, of a split whose images are pixels in another form than picture files.
    """

    folder_numbers: Sequence[int]
    labels: Sequence[int]
    names: Sequence[bytes]
    begins: Sequence[int] = ()
    sizes: Sequence[int] = ()
    pixels: np.ndarray | None = None


class SplitNotFound(UserError):
    """There is no such split here: its images, or what lists them, are absent. Any other UserError says that what is
    there is wrong."""


class UnsortedImages(UserError):
    """There is a folder of the split's name, and its images lie in no class folders."""


@dataclass(frozen=True)
class Split(ABC):
    """Where the images of a split are, and where their labels come from.

    Attributes:
        name: train, val, ….
        image_root: the names in the index are relative to it; a path, if only for messages.
        classes: class names; the position is the class index.
    """

    name: str
    image_root: os.PathLike
    classes: list[str]

    @property
    @abstractmethod
    def source(self) -> str:
        """The file or folder that it is read from: what to name in a message."""

    @property
    def archive(self) -> Stamp | None:
        """The archive that its images are read from in place; None for files of their own, and for pixels."""
        return self.image_root.archive.file.stamp if isinstance(self.image_root, ArchiveFolder) else None

    @property
    def shards(self) -> list[list[int]] | None:
        """[bytes, images] of each shard that its images are in, see ``shard_files.ShardFiles``; None elsewhere."""
        return None

    @abstractmethod
    def key(self) -> dict:
        """What its index depends on besides the modification times of what is read, as JSON's types; cheap enough to
        be compared at each start.

        Raises:
            UserError: it cannot be read.
        """

    @abstractmethod
    def read(self, folders: dict[str, int], times: dict[str, int], passed_over: Counter[str]) -> Iterator[Batch]:
        """The images in pieces, in the order of the index.

        Args:
            folders: filled while reading: the folders that have images, relative to ``image_root`` ("" is that
                itself), and their numbers 0, 1, … in the order of appearance.
            times: filled while reading: the files or folders that were read, relative to ``image_root`` or absolute,
                and their modification times in ns from before they were read.
            passed_over: filled while reading: how many files of which kind lie among the images and are not taken, see
                ``engine.predict.image_files``.

        Raises:
            UserError: something cannot be read, or is wrong.
        """


def modification_times(split: Split, paths: list[str]) -> list[int | None]:
    """The modification times, in ns, of what ``Split.read`` read; None for what is gone."""
    times = []
    for path in paths:
        try:
            times.append(os.stat(Path(split.image_root) / path).st_mtime_ns)
        except OSError:
            times.append(None)
    return times
