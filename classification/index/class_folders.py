"""Scene sets without lists: a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine.errors import UserError
from engine.predict.media import IMAGE_SUFFIXES
from places365.categories import PLACES365, class_index

_DEEPEST = 8  # folders below each other; more are a loop of links


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: a known suffix in any case, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, hidden ones left out, sorted. Raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None


def find_class_folders(root: Path) -> list[tuple[str, str]]:
    """The classes below ``root``: (name, folder relative to ``root``), in the order of the class indices.

    A class is a folder of ``root``, and the images anywhere below it are its images, with one exception: the
    nested folders of Places365 (``a/apartment_building/outdoor``, told by the letters at the top or by every
    innermost folder being one of its classes), where each innermost folder is a class.

    The order is the official one, and the names are the official ones, where the classes are the 365 of Places365;
    for any other set it is that of the sorted names. A folder without images is a class, too. Hidden folders are
    passed over.

    Only as much is read as it takes to see whether a folder holds images, so this is quick for millions of them.

    Raises:
        UserError: two folders for one class, or folders that cannot be read.
    """
    top = subfolders(root)
    leaves = [leaf for name in top for leaf in _leaves(root, name, 1)]
    lettered = all(len(name) == 1 for name in top) and all("/" in leaf for leaf in leaves)
    if lettered or all(class_index(leaf) is not None for leaf in leaves):
        found = [(_without_letter(leaf), leaf) for leaf in leaves]
    else:
        found = [(name, name) for name in top]
    by_class: dict[int | str, tuple[str, str]] = {}
    for name, folder in found:
        other = by_class.setdefault(class_key(name), (name, folder))
        if other[1] != folder:
            raise UserError(f"{root}: the folders {other[1]} and {folder} are both the class {name}; keep one of them")
    if set(by_class) == set(range(len(PLACES365))):
        return [(name, by_class[index][1]) for index, name in enumerate(PLACES365)]
    return sorted(by_class.values())


def class_key(name: str) -> int | str:
    """What two spellings of one class share: the official index where there is one, else the name."""
    index = class_index(name)
    return name if index is None else index


def walk_images(root: Path, folder: str) -> Iterator[tuple[str, int, list[bytes]]]:
    """The images in ``folder`` and the folders below it.

    Yields:
        (folder relative to ``root``, its modification time in ns, the names of the images in it, sorted). The time
        is taken before the folder is read: a file that comes later changes it.

    Raises:
        UserError: a folder cannot be read, or folders are nested without end.
    """
    if folder.count("/") > _DEEPEST + 2:
        raise UserError(f"{root / folder}: folders are nested too deeply; does a link point back up?")
    try:
        modified = os.stat(root / folder).st_mtime_ns
        with os.scandir(root / folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        names = sorted(os.fsencode(entry.name) for entry in visible if is_image_name(entry.name) and not entry.is_dir())
        below = sorted(entry.name for entry in visible if entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read the folder {error.filename}: {error.strerror}") from None
    yield folder, modified, names
    for name in below:
        yield from walk_images(root, f"{folder}/{name}")


def _leaves(root: Path, folder: str, depth: int) -> list[str]:
    """The folders at or below ``folder`` that hold images, or hold no folders."""
    below = []
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if is_image_name(entry.name) and not entry.is_dir():
                    return [folder]
                if not entry.name.startswith(".") and entry.is_dir():
                    below.append(entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {root / folder}: {error.strerror}") from None
    if not below or depth >= _DEEPEST:
        return [folder]
    return [leaf for name in sorted(below) for leaf in _leaves(root, f"{folder}/{name}", depth + 1)]


def _without_letter(folder: str) -> str:
    letter, _, rest = folder.partition("/")
    return rest if rest and len(letter) == 1 else folder
