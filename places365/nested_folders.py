"""Class folders as Places365 has them: nested below letters, or with a class's name spelled in another way."""

from __future__ import annotations

import re

from classification.index.class_folders import ClassFolders, one_folder_each, shortened
from classification.index.folders import MAX_DEPTH, Folder, entries_of, subfolders
from classification.index.split import Split
from engine.errors import UserError
from engine.names import class_name, printable
from places365.categories import PLACES365, class_index


def find_classes(root: Folder) -> list[tuple[str, str]]:
    """The classes below ``root``: (name, folder relative to ``root``), in the order of the class indices.

    As in ``classification.index.class_folders``, a class is a folder of ``root``, and the images anywhere below it are
    its images, with one exception: the nested folders of Places365 (``a/apartment_building/outdoor``), where each
    innermost folder is a class. They are told by the letters at the top, each of which every folder in it begins with,
    or by every innermost folder being one of Places365's classes.

    The order is the official one, and the names are the official ones, where the classes are the 365 of Places365;
    for any other set it is that of the sorted names.

    Only as much is read as it takes to see whether a folder holds images, so this is quick for millions of them.

    Raises:
        UserError: two folders for one class, some folders that are Places365's letters and some that are not, or
            folders that cannot be read.
    """
    top = subfolders(root)
    below = {name: innermost for name in top if (innermost := _innermost(root, name, 1))}
    innermost = [folder for name in top for folder in below.get(name, ())]
    letters = [name for name in below if all(_below_its_letter(folder) for folder in below[name])]
    nested = bool(below) and len(letters) == len(below)
    if nested or (innermost and all(class_index(folder) is not None for folder in innermost)):
        empty = [name for name in top if name not in below and not (nested and len(name) == 1)]
        found = [(class_name(_without_letter(folder)), folder) for folder in [*innermost, *empty]]
    elif any(class_index(folder) is not None for name in letters for folder in below[name]):
        others = [name for name in below if name not in letters]
        raise UserError(
            f"{root}: the folders {shortened(letters)} are Places365's letters, with its classes in them, and these "
            f"are not: {shortened(others)}. Move the classes out of the letters' folders, or the others into them"
        )
    else:
        found = [(class_name(name), name) for name in top]
    by_class = one_folder_each(root, found, class_key)
    if set(by_class) == set(range(len(PLACES365))):
        return [(name, by_class[index][1]) for index, name in enumerate(PLACES365)]
    return sorted(by_class.values())


def class_key(name: str) -> int | str:
    """What two spellings of one class share: the official index where there is one, else the name."""
    index = class_index(name)
    return name if index is None else index


def nesting(split: Split) -> str:
    """What to tell of class folders that were read as nested below letters, where no name shows that they are; else
    empty."""
    if not isinstance(split, ClassFolders) or any(class_index(name) is not None for name in split.classes):
        return ""
    example = next((folder for folder, _ in split.folders if _below_its_letter(folder)), "")
    return example and (
        f"the folders are read as nested below the first letters of the classes: {printable(example)} is the class "
        f"{_without_letter(class_name(example))}, not {example[0]}"
    )


def _innermost(root: Folder, folder: str, depth: int) -> list[str]:
    """The folders at or below ``folder`` that hold images; those that hold nothing too, but for ``folder`` itself."""
    below = []
    for entry in entries_of(root / folder):
        if entry.is_folder:
            below.append(entry.name)
        elif entry.is_picture():
            return [folder]
    if not below or depth >= MAX_DEPTH:
        return [folder] if depth > 1 else []
    return [found for name in sorted(below) for found in _innermost(root, f"{folder}/{name}", depth + 1)]


def _below_its_letter(folder: str) -> bool:
    """Whether a folder lies as Places365's do below the first letter of its class: ``d/desert/sand``."""
    return re.match(r"([a-z])/\1[a-z]", folder) is not None


def _without_letter(folder: str) -> str:
    return folder[2:] if re.match(r"[a-z]/", folder) else folder
