"""What an index is read from, and what tells whether it is still true."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from tqdm import tqdm

from classification.index.class_folders import walk_images
from engine.errors import UserError
from places365.layout import Split
from places365.official_list import Batch, read_list

_ENDS = 1 << 16  # bytes of a list's beginning and end that its key holds a hash of


def read_split(split: Split, folders: dict[str, int], times: dict[str, int]) -> Iterator[Batch]:
    """The images of a split in pieces, from its list or its class folders.

    Args:
        folders: filled while reading: the folders that have images, relative to the image root, and their numbers.
        times: filled while reading class folders: all folders, with or without images, and their modification times
            in ns.

    Raises:
        UserError: a wrong line (file and line are named), a folder that cannot be read, or no images at all.
    """
    if split.list_path is not None:
        batches = read_list(split.list_path, split.labelled, split.name.startswith("train"), folders)
    else:
        batches = _read_folders(split, folders, times)
    count = 0
    for batch in batches:
        count += len(batch[0])
        yield batch
    if not count:
        what = "is empty" if split.list_path is not None else "has no images in its class folders"
        raise UserError(f"{split.source} {what}")


def _read_folders(split: Split, folders: dict[str, int], times: dict[str, int]) -> Iterator[Batch]:
    """The images of class folders, class by class; fills the folders' numbers and modification times."""
    progress = tqdm(split.folders, desc=f"reading {split.image_root.name}", unit="class", leave=False, disable=None)
    for class_folder, label in progress:
        for folder, modified, names in walk_images(split.image_root, class_folder):
            times[folder] = modified
            if names:
                number = folders.setdefault(folder, len(folders))
                yield [number] * len(names), [label] * len(names), names


def key_of(split: Split, folders: list[str]) -> dict:
    """What an index depends on, cheap enough to be compared at each start.

    A list: size, modification time, and a hash of the first and the last 64 KiB (all of the Challenge list, 240 MB,
    would take a second or more). Class folders: the modification times of ``folders``, those that were walked, which
    change with each file that comes or goes.
    """
    if split.list_path is None:
        times = []
        for folder in folders:
            try:
                times.append([folder, os.stat(split.image_root / folder).st_mtime_ns])
            except OSError:
                times.append([folder, None])
        return {"classes": split.classes, "class_folders": list(map(list, split.folders)), "folders": times}
    try:
        with open(split.list_path, "rb") as file:
            status = os.fstat(file.fileno())
            ends = hashlib.sha256(file.read(_ENDS))
            file.seek(max(0, status.st_size - _ENDS))
            ends.update(file.read(_ENDS))
    except OSError as error:
        raise UserError(f"cannot read the list {split.list_path}: {error.strerror}") from None
    return {
        "classes": split.classes,
        "labelled": split.labelled,
        "size": status.st_size,
        "modified": status.st_mtime_ns,
        "ends": ends.hexdigest(),
    }
