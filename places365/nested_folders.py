"""Class folders as Places365 has them: nested below letters, or with a class's name spelled in another way."""

from __future__ import annotations

import os
from pathlib import Path

from classification.index.class_folders import MAX_DEPTH, is_image_name, subfolders
from engine.errors import UserError
from places365.categories import PLACES365, class_index


def find_classes(root: Path) -> list[tuple[str, str]]:
    """The classes below ``root``: (name, folder relative to ``root``), in the order of the class indices.

    As in ``classification.index.class_folders``, a class is a folder of ``root``, and the images anywhere below it are
    its images, with one exception: the nested folders of Places365 (``a/apartment_building/outdoor``, told by the
    letters at the top or by every innermost folder being one of its classes), where each innermost folder is a class.

    The order is the official one, and the names are the official ones, where the classes are the 365 of Places365;
    for any other set it is that of the sorted names.

    Only as much is read as it takes to see whether a folder holds images, so this is quick for millions of them.

    Raises:
        UserError: two folders for one class, or folders that cannot be read.
    """
    top = subfolders(root)
    innermost = [folder for name in top for folder in _innermost(root, name, 1)]
    below_letters = all(len(name) == 1 for name in top) and all("/" in folder for folder in innermost)
    if below_letters or all(class_index(folder) is not None for folder in innermost):
        found = [(_without_letter(folder), folder) for folder in innermost]
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


def _innermost(root: Path, folder: str, depth: int) -> list[str]:
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
    if not below or depth >= MAX_DEPTH:
        return [folder]
    return [found for name in sorted(below) for found in _innermost(root, f"{folder}/{name}", depth + 1)]


def _without_letter(folder: str) -> str:
    letter, _, rest = folder.partition("/")
    return rest if rest and len(letter) == 1 else folder
