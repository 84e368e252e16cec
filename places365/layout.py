"""Finding a split of Places365, or of another scene set, below one folder."""

from __future__ import annotations

import os
from pathlib import Path

from classification.index import class_folders
from classification.index.class_folders import shortened
from classification.index.folders import subfolders
from classification.index.split import Split, SplitNotFound, UnsortedImages
from classification.shards.split import find_shards
from engine.errors import UserError
from places365.categories import PLACES365, places365_classes
from places365.nested_folders import class_key, find_classes
from places365.official_list import OfficialList, has_labels, sample_entries

SPLITS = ("train", "train-standard", "train-challenge", "val", "test")
IMAGES = ("auto", "256", "large")
CATEGORIES = "categories_places365.txt"

# Names of the lists in the archives filelist_places365-standard.tar and filelist_places365-challenge.tar.
_LISTS = {
    "train-standard": "places365_train_standard.txt",
    "train-challenge": "places365_train_challenge.txt",
    "val": "places365_val.txt",
    "test": "places365_test.txt",
}
# Where lists that were unpacked into a folder of their own usually lie; any other folder is searched after these.
_LIST_FOLDERS = ("filelist_places365-standard", "filelist_places365-challenge")

# Image folders for each size. The archives of the training images unpack to data_256 or data_large whichever the
# set, torchvision's Places365 adds _standard or _challenge, and many people unpack into a folder with the archive's
# name. (torchvision, datasets/places365.py; README of github.com/zhoubolei/places_devkit, which also says that the
# large challenge images come as one archive a letter: a/abbey/00000000.jpg.)
_IMAGE_FOLDERS = {
    "train-standard": ("data_{}_standard", "data_{}", "train_{}_places365standard", "train_{}"),
    "train-challenge": ("data_{}_challenge", "data_{}", "train_{}_places365challenge", "train_{}"),
    "val": ("val_{}",),
    "test": ("test_{}",),
}


def find_root(root: str) -> Path:
    """DATA.ROOT here, or else in ``$PLACES365_DATASETS`` (``datasets`` by default). A Python package is passed over:
    in the repository, "places365" is this one."""
    here = Path(root).expanduser()
    elsewhere = Path(os.environ.get("PLACES365_DATASETS", "datasets")).expanduser() / root
    if here.exists() and not (here / "__init__.py").exists():
        return here
    if not elsewhere.exists():
        raise UserError(f"DATA.ROOT: there is no folder of images {here}, nor {elsewhere}")
    return elsewhere


def find_split(root: str | os.PathLike, split: str, images: str = "auto") -> Split:
    """Finds a split by the names of the official archives, by those of torchvision's Places365, or class folders.

    Shards that ``tools/make_shards.py`` made are taken where there are such. Else lists
    (``places365_train_standard.txt``, …) are looked for in ``root`` and in its folders, image folders
    (``data_256``, ``data_256_standard``, ``val_large``, …) in ``root``, in its folders and beside the list. Of
    several image folders the one is taken that holds the most of some files looked up from the list. Failing that:
    class folders ``train/<class>/…``, in ``root`` or in one of its folders; the classes of ``val`` and ``test`` are
    those of ``train`` where there is one. Where ``root`` is an archive (zip, tar), class folders in it are found alone.

    Args:
        split: one of ``SPLITS``. "train" is the standard set where its list and images are there (the challenge's
            archive has the standard list, too: ask for "train-challenge" to train on all of it), else the challenge
            set, else class folders.
        images: "256" or "large" images; "auto" takes the 256-pixel ones where both are there, since they are read
            several times as fast. Class folders have no known size: "auto" alone finds them.

    Raises:
        SplitNotFound: nothing was found; the message says what was looked for, where, and what is there.
        UnsortedImages: there is neither a list nor class folders, and a folder with images of the split.
        UserError: what was found is wrong: an unknown split, image folders without the list's files, a
            ``categories_places365.txt`` with other classes, a class in ``val`` that ``train`` lacks.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    if images not in IMAGES:
        raise UserError(f"unknown image size {images!r}: one of {', '.join(IMAGES)}")
    root = Path(root).expanduser()
    if root.is_file():
        return class_folders.find_split(root, split, images, find_classes, class_key)
    if not root.is_dir():
        raise SplitNotFound(f"the data folder {root} does not exist")
    if (shards := find_shards(root, split, images)) is not None:
        return shards
    failures = []
    for name in ("train-standard", "train-challenge") if split == "train" else (split,):
        try:
            return _official(root, name, images)
        except UserError as error:
            failures.append(error)
    if split in ("train", "val", "test"):
        try:
            return class_folders.find_split(root, split, images, find_classes, class_key)
        except (SplitNotFound, UnsortedImages) as error:
            failures.append(error)
    wrong = [error for error in failures if not isinstance(error, SplitNotFound)]
    if wrong:
        raise wrong[0]
    tried = "\n".join(f"  - {error}" for error in failures)
    raise SplitNotFound(f"no split {split!r} in {root}:\n{tried}\n  There is: {_listing(root)}")


def _official(root: Path, split: str, images: str) -> OfficialList:
    list_path = _find_list(root, split)
    labelled = split != "test" or has_labels(list_path)
    _check_categories(root, list_path.parent)
    image_root = _find_images(root, list_path, split, images, labelled)
    return OfficialList(split, image_root, places365_classes(), list_path, labelled)


def _find_list(root: Path, split: str) -> Path:
    name = _LISTS[split]
    first = [root, *(root / folder for folder in _LIST_FOLDERS)]
    for folder in [*first, *(folder for folder in _bases(root) if folder not in first)]:
        if (folder / name).is_file():
            return folder / name
    raise SplitNotFound(f"there is no list {name} in {root} or in one of its folders")


def _find_images(root: Path, list_path: Path, split: str, images: str, labelled: bool) -> Path:
    """The folder that the names in a list are relative to."""
    entries = sample_entries(list_path, labelled)
    if not entries:
        raise UserError(f"the list {list_path} is empty; was it cut off while unpacking?")
    sizes = ("256", "large") if images == "auto" else (images,)
    names = [name.format(size) for size in sizes for name in _IMAGE_FOLDERS[split]]
    bases = list(dict.fromkeys([*_bases(root), list_path.parent]))
    official = [base / name for name in names for base in bases if (base / name).is_dir()]
    candidates = official
    if images == "auto":  # of unknown size: folders train, val, test, or the letters' archives unpacked right here
        candidates = [*official, *(base / split.partition("-")[0] for base in bases), root, list_path.parent]
    # Path.is_file raises where a name is longer than any file's.
    present = [sum(os.path.isfile(folder / entry) for entry in entries) for folder in candidates]
    if any(present):
        return candidates[present.index(max(present))]
    if official:
        raise UserError(
            f"{official[0]} has none of the {len(entries)} files looked up from {list_path}, {entries[0]:.120} for "
            "one. Is it the folder of another set, or was its archive unpacked only in part?"
        )
    raise SplitNotFound(
        f"the images of {list_path} are not there: none of the folders {', '.join(names)} in {root} or in one of its "
        "folders"
    )


def _check_categories(*folders: Path) -> None:
    """Compares the set's own class list with ours, which the labels are read by."""
    for path in {folder / CATEGORIES: None for folder in folders}:
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path}: {error}") from None
        found = [line.split() for line in lines if line.strip()]
        expected = [[f"/{name[0]}/{name}", str(index)] for index, name in enumerate(PLACES365)]
        for number, (theirs, ours) in enumerate(zip(found, expected, strict=False), 1):
            if theirs != ours:
                raise UserError(
                    f"{path}, line {number}: {' '.join(theirs)!r}, where the official list has {' '.join(ours)!r}. The "
                    "labels would mean other classes: restore the official file, or make class folders of the set"
                )
        if len(found) != len(expected):
            raise UserError(f"{path} has {len(found)} classes in place of the official {len(expected)}")


def _bases(root: Path) -> list[Path]:
    """The folder itself, and the folders in it."""
    return [root, *(root / name for name in subfolders(root))]


def _listing(folder: Path) -> str:
    return shortened(sorted(os.listdir(folder)), 15) or "nothing"
