"""ImageNet's validation images as they are published: one flat folder, and a list of their labels beside it."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from classification.index.class_folders import TRAIN, find_classes, shortened
from classification.index.folders import (
    Folder,
    entries_of,
    has_file,
    modified,
    own_images,
    places,
    read_file,
    subfolders,
)
from classification.index.split import Batch, Split, SplitNotFound
from classification.sets.mat_file import NotUnderstood, read_table
from engine.errors import UserError
from engine.predict.image_files import IMAGE_SUFFIXES

KAGGLE = "LOC_val_solution.csv"
CAFFE = "val.txt"
TENSORFLOW = "imagenet_2012_validation_synset_labels.txt"
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
#: Where labels stand, in the order in which they are looked for, and what of.
LISTS = {
    KAGGLE: "Kaggle's: image and class",
    TENSORFLOW: "TensorFlow's: a class a line, in the order of the images",
    CAFFE: "Caffe's: image and number of its class among the sorted ones",
    DEVKIT: "the devkit's, with its meta.mat: a number a line, in the order of the images",
}
META = "meta.mat"  # of the devkit: which class each number stands for
_DEVKIT_FOLDER = "ILSVRC2012_devkit_t12/data"
_KAGGLE_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # in the archive of Kaggle's competition


@dataclass(frozen=True)
class FlatSplit(Split):
    """A split whose images lie in one folder, and their labels in a list.

    Attributes:
        image_root: the folder.
        list_folder, list_name: where the list lies; its name is one of ``LISTS``.
        class_folders: the names of the classes' folders in ``train``, by class index.
    """

    image_root: Folder
    list_folder: Folder
    list_name: str
    class_folders: tuple[str, ...]

    @property
    def source(self) -> str:
        """The list."""
        return str(self.list_folder / self.list_name)

    def key(self) -> dict:
        """The classes, the list's content, and what counts as an image here."""
        digest = hashlib.sha256(self.content(self.list_name))
        if self.list_name == DEVKIT:
            digest.update(self.content(META))
        size = {} if self.archive is None else {"archive_bytes": self.archive.size}
        about = {"classes": self.classes, "folders": list(self.class_folders), "list": digest.hexdigest(), **size}
        return {**about, "suffixes": sorted(IMAGE_SUFFIXES)}

    def read(self, folders: dict[str, int], times: dict[str, int], passed_over: Counter[str]) -> Iterator[Batch]:
        """The images by their names; ``times`` are the folder's and the list's, or the archive's."""
        times["" if self.archive is None else self.archive.path] = modified(self.image_root)
        if self.archive is None:
            times[os.path.abspath(self.source)] = modified(self.list_folder / self.list_name)
        names = sorted(map(os.fsencode, own_images(self.image_root)))
        for entry in entries_of(self.image_root):
            if not entry.is_folder and not entry.is_picture():
                passed_over[entry.kind] += 1
        labels = label_images([os.fsdecode(name) for name in names], self)
        number = folders.setdefault("", 0)
        yield Batch([number] * len(names), labels, names, *places(self.image_root, names))

    def lines(self) -> list[tuple[int, str]]:
        """(number from 1 on, text) of each line of the list that is not blank."""
        text = self.content(self.list_name).decode("utf-8-sig", "surrogateescape")
        return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]

    def content(self, name: str) -> bytes:
        """A file's beside the list, or the list's own. Raises UserError where there is none."""
        content = read_file(self.list_folder, name)
        if content is None:
            raise UserError(f"there is no {self.list_folder / name}, which has the labels of {self.image_root}")
        return content


def find_flat(root: Folder, split: str) -> FlatSplit:
    """Finds a folder ``split`` with images in it and a list of their labels: in it, beside it, in a folder beside it,
    or where Kaggle's competition has it.

    Args:
        root: with the folders ``train``, of class folders, and ``split``; or a folder of it has them.

    Raises:
        SplitNotFound: there is no such folder, or no list; the message says what was looked for.
        UserError: ``train`` has no class folders to name the classes.
    """
    top = base_of(root)
    bases = [] if split == TRAIN else [top, *(top / name for name in subfolders(top))]
    base = next((base for base in bases if (base / split).is_dir() and own_images(base / split)), None)
    if base is None:
        raise SplitNotFound(
            f"there is no folder {split} of images with a list of labels in {top} or in one of its folders"
        )
    around = _around(root, base, split)
    found = next(((folder, name) for name in LISTS for folder in around if has_file(folder, name)), None)
    if found is None:
        wanted = "; ".join(f"{name}, {text}" for name, text in LISTS.items())
        raise SplitNotFound(f"there is no list of the labels beside {base / split} ({wanted})")
    if not (base / TRAIN).is_dir() or not (classes := find_classes(base / TRAIN)):
        raise UserError(f"{found[0] / found[1]}: the classes are the folders of {base / TRAIN}, and there are none")
    names, folders = zip(*classes, strict=True)
    return FlatSplit(split, base / split, list(names), *found, folders)


def base_of(root: Folder) -> Folder:
    """The folder with train and val: in what Kaggle's competition unpacks to some folders down; else ``root``."""
    return next((root / name for name in _KAGGLE_FOLDERS if (root / name).is_dir()), root)


def _around(root: Folder, base: Folder, split: str) -> list[Folder]:
    """Where a list of labels may lie."""
    beside = [base / name for name in subfolders(base) if name not in (TRAIN, split)]
    above = list(base.parents)[1:3] if isinstance(base, Path) and base.parts[-2:] == ("Data", "CLS-LOC") else []
    return [base, base / split, *beside, base / _DEVKIT_FOLDER, root, *above]


def label_images(names: list[str], split: FlatSplit) -> list[int]:
    """The class index of each image by its list, where each has exactly one.

    Raises:
        UserError: an image has no label or two, or a line names an image or a class that is not there; file and line
            are named.
    """
    read = _Reader(names, split)
    labels, lines = [-1] * len(names), [0] * len(names)
    for number, line in split.lines():
        said = f"{split.source}, line {number}"
        if split.list_name == KAGGLE and line.startswith("ImageId,"):
            continue
        image, place, label = read.line(said, number, line)
        if place is None:
            raise UserError(f"{said}: there is no image {image} in {split.image_root}")
        if label is None:
            raise UserError(
                f"{said}: {line[:120]!r} names none of the {len(split.classes)} classes of {TRAIN}. Is it of another "
                "set, or is the training set not whole?"
            )
        if lines[place]:
            raise UserError(f"{said}: {names[place]} has a label already, in line {lines[place]}; keep one of the two")
        labels[place], lines[place] = label, number
    if missing := [name for name, line in zip(names, lines, strict=True) if not line]:
        raise UserError(
            f"{split.source} has no label for {len(missing):,} of the images in {split.image_root}: "
            f"{shortened(missing, 5)}"
        )
    return labels


class _Reader:
    """Lines of a list: (image as it is named there, its place among the images or None, class index or None)."""

    def __init__(self, names: list[str], split: FlatSplit):
        self.places: dict[str, int] = {}
        for place, name in enumerate(names):
            other = self.places.setdefault(os.path.splitext(name)[0], place)
            if other != place:
                raise UserError(
                    f"{split.image_root}: a list cannot tell {names[other]} from {name}; keep one of the two"
                )
        self.labels = {folder: label for label, folder in enumerate(split.class_folders)}
        self.numbers = {
            int(found[1]): place for stem, place in self.places.items() if (found := re.search(r"_(\d{1,12})$", stem))
        }
        readers = {KAGGLE: self._kaggle, TENSORFLOW: self._tensorflow, CAFFE: self._caffe, DEVKIT: self._devkit}
        self._read = readers[split.list_name]
        self.synsets = _synsets(split) if split.list_name == DEVKIT else {}

    def line(self, said: str, number: int, line: str) -> tuple[str, int | None, int | None]:
        """Raises UserError, which begins with ``said``, where a line is none of its list's."""
        return self._read(said, number, line)

    def _kaggle(self, said: str, number: int, line: str) -> tuple[str, int | None, int | None]:
        image, _, boxes = line.partition(",")
        classes = set(boxes.split()[::5])  # a class and four numbers for each box
        if len(classes) != 1:
            raise UserError(f"{said}: {line[:120]!r} is no image, comma, and boxes of one class")
        return image, self.places.get(image), self.labels.get(classes.pop())

    def _tensorflow(self, said: str, number: int, line: str) -> tuple[str, int | None, int | None]:
        return f"with the number {number}", self.numbers.get(number), self.labels.get(line)

    def _caffe(self, said: str, number: int, line: str) -> tuple[str, int | None, int | None]:
        image, blank, label = line.rpartition(" ")
        if not blank or not re.fullmatch(r"[0-9]{1,9}", label):
            raise UserError(f"{said}: {line[:120]!r} is no image and number of its class")
        image = image.strip().rpartition("/")[2]
        place = self.places.get(os.path.splitext(image)[0])
        return image, place, int(label) if int(label) < len(self.labels) else None

    def _devkit(self, said: str, number: int, line: str) -> tuple[str, int | None, int | None]:
        label = self.labels.get(self.synsets.get(line.lstrip("0"), ""))
        return f"with the number {number}", self.numbers.get(number), label


def _synsets(split: FlatSplit) -> dict[str, str]:
    """The devkit's number of each class, and the class: ILSVRC2012_ID and WNID of its meta.mat's ``synsets``. Raises
    UserError where they are not there as they should be."""
    path = split.list_folder / META
    try:
        rows = read_table(split.content(META), "synsets")
        found = {str(int(row["ILSVRC2012_ID"])): str(row["WNID"]) for row in rows}
        if len(found) != len(rows) or len(set(found.values())) != len(rows):
            raise NotUnderstood("two of its classes have one number or name")
        if not all(re.fullmatch(r"n\d{8}", name) for name in found.values()):
            raise NotUnderstood("its names of classes are none")
    except (NotUnderstood, KeyError, TypeError) as error:
        others = ", ".join(name for name in LISTS if name != DEVKIT)
        raise UserError(
            f"{path} is not understood: {error}. Get the devkit again, or put another list of the labels in its place: "
            f"{others}"
        ) from None
    return found
