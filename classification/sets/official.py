"""CIFAR-10, CIFAR-100 and STL-10 as they are published: found, and read into an index with their pixels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from classification.index.folders import subfolders
from classification.index.split import Batch, Split, SplitNotFound
from classification.sets import forms
from classification.sets.files import PublishedFiles, folder_in
from classification.sets.forms import Form, folder_of
from engine.errors import UserError

#: The set's own splits, by the names that a config may give them.
SPLITS = {"train": "train", "val": "test", "test": "test"}
_PIECE = 1000  # images


@dataclass(frozen=True)
class OfficialSet(Split):
    """A split of a set in one of its published forms: its images are pixels, no files.

    Attributes:
        image_root: the folder of the files, or the archive.
    """

    form: Form
    files: PublishedFiles

    @property
    def source(self) -> str:
        """The folder, or the archive."""
        return str(self.image_root)

    @property
    def _names(self) -> list[str]:
        names = list(self.form.splits[SPLITS[self.name]])
        return names + [labels for name in names if (labels := self.form.labels_file(name))]

    def key(self) -> dict:
        """The form, and the sizes of the files."""
        sizes = {name: self.files.size(name) for name in self._names}
        return {"classes": self.classes, "form": self.form.folder, "bytes": sizes}

    def read(self, folders: dict[str, int], times: dict[str, int], passed_over: Counter[str]) -> Iterator[Batch]:
        """The images in the order of the files and in them."""
        times |= self.files.times(self._names)
        counts, labels = self.form.splits[SPLITS[self.name]], {}
        files = sorted(self._names, key=lambda name: name in counts)  # labels first
        for name, content in tqdm(
            self.files.contents(files), total=len(files), desc=f"reading {self.form.title}", leave=False, disable=None
        ):
            if name not in counts:
                labels[name] = content
                continue
            own = labels.get(self.form.labels_file(name), b"")
            images = self.form.images_of(content, own, self.files.where(name), counts[name])
            number = folders.setdefault(folder_of(name), len(folders))
            names = images.names or [b"%05d" % place for place in range(len(images.labels))]
            for first in range(0, len(names), _PIECE):
                part = slice(first, first + _PIECE)
                of_classes = images.labels[part].tolist()
                yield Batch([number] * len(of_classes), of_classes, names[part], pixels=images.pixels[part])


def find_official(root: Path, split: str) -> OfficialSet:
    """Finds a set in ``root``, in one of its folders, or in its published archive, which is ``root`` or lies in it.

    Of several forms of one set the first of ``forms.FORMS`` is taken, unpacked ones before archives: they say the same.

    Raises:
        SplitNotFound: there is none; the message says what was looked for.
        UserError: it has no such split, several sets are there, or the classes cannot be read.
    """
    found = _packed_in_root(root) if root.is_file() else [*_unpacked(root), *_archives(root)]
    if len({form.title for form, _ in found}) > 1:
        places = ", ".join(str(files.path) for _, files in found)
        raise UserError(f"{root} holds several sets ({places}): name one of them as the data folder")
    if not found:
        wanted = ", ".join(f"{form.folder} ({form.archive})" for form in forms.FORMS)
        raise SplitNotFound(
            f"there are no official files of CIFAR-10, CIFAR-100 or STL-10 in {root} or in one of its folders: {wanted}"
        )
    form, files = found[0]
    if split not in SPLITS:
        raise UserError(f"{form.title} in {files.path} has the splits train and val (its test images), not {split!r}")
    return OfficialSet(split, files.path, _classes(form, files), form, files)


def _packed_in_root(path: Path) -> list[tuple[Form, PublishedFiles]]:
    folder = folder_in(path)
    return [(form, PublishedFiles(path, packed=True)) for form in forms.FORMS if form.folder == folder]


def _unpacked(root: Path) -> Iterator[tuple[Form, PublishedFiles]]:
    folders = [root, *(root / name for name in subfolders(root))]
    for form in forms.FORMS:
        files = [name for names in form.splits.values() for name in names]
        for folder in folders:
            there = any(os.path.isfile(folder / name) for name in files)
            if there and (folder.name == form.folder or os.path.isfile(folder / form.classes_file)):
                yield form, PublishedFiles(folder)


def _archives(root: Path) -> Iterator[tuple[Form, PublishedFiles]]:
    for form in forms.FORMS:
        if os.path.isfile(root / form.archive):
            yield form, PublishedFiles(root / form.archive, packed=True)


_read: dict[tuple, list[str]] = {}  # an archive is read to its classes once for both splits


def _classes(form: Form, files: PublishedFiles) -> list[str]:
    key = (form.folder, *files.times([form.classes_file]).items())
    if key not in _read:
        ((name, content),) = files.contents([form.classes_file], whole=False)
        _read.clear()
        _read[key] = form.names_of_classes(content, files.where(name))
    return list(_read[key])
