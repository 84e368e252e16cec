"""The official file lists: a line an image, its name and its class index."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from classification.index.split import Batch, Split
from engine.errors import UserError
from places365.categories import PLACES365, class_index

_CHUNK = 1 << 22  # bytes read at once
_SAMPLE_BYTES = 1 << 14  # which hold the rest of a line and the next one: no path has more than 4096
_END_BYTES = 1 << 16  # of a list's beginning and end that its key holds a hash of
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")  # the marks of UTF-16 and UTF-32


@dataclass(frozen=True)
class OfficialList(Split):
    """A split whose images stand in one of the official lists.

    Attributes:
        name: train-standard, train-challenge, val or test.
        labelled: False for the official test list, which has no class indices.
    """

    list_path: Path
    labelled: bool = True

    @property
    def source(self) -> str:
        """The list."""
        return str(self.list_path)

    def key(self) -> dict:
        """Size, and a hash of the first and the last 64 KiB: all of the Challenge list, 240 MB, would take a second or
        more."""
        with _opened(self.list_path) as file:
            size = os.fstat(file.fileno()).st_size
            ends = hashlib.sha256(file.read(_END_BYTES))
            file.seek(max(0, size - _END_BYTES))
            ends.update(file.read(_END_BYTES))
        return {"classes": self.classes, "labelled": self.labelled, "size": size, "ends": ends.hexdigest()}

    def read(self, folders: dict[str, int], times: dict[str, int], passed_over: Counter[str]) -> Iterator[Batch]:
        """The list's images; see ``read_list``."""
        try:
            times[os.path.abspath(self.list_path)] = os.stat(self.list_path).st_mtime_ns
        except OSError as error:
            raise _unreadable(self.list_path, error) from None
        yield from read_list(self.list_path, self.labelled, self.name.startswith("train"), folders)
        if not folders:
            raise UserError(f"{self.source} is empty")


def has_labels(path: Path) -> bool:
    """Whether a list's first line has a class index behind the name, as the lists of train and val do.

    Raises:
        UserError: the list cannot be read.
    """
    with _opened(path) as file:
        for line in chain.from_iterable(_lines(file)):
            if line.strip():
                fields = line.split()
                return len(fields) > 1 and fields[-1].isdigit()
    return False


def sample_entries(path: Path, labelled: bool, count: int = 16) -> list[str]:
    """About ``count`` names spread evenly over a list, relative to the image folder. Raises UserError as above."""
    names = []
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        for part in range(count):
            file.seek(size * part // count)
            lines = file.read(_SAMPLE_BYTES).splitlines()
            skipped = 1 if part else 0  # the rest of a line
            if len(lines) <= skipped:
                continue
            line = _with_slashes(lines[skipped].removeprefix(_BYTE_ORDER_MARK))
            fields = line.rsplit(None, 1) if labelled else [line.strip()]
            if fields and fields[0]:
                names.append(os.fsdecode(fields[0]).strip("/"))
    return list(dict.fromkeys(names))


def read_list(path: Path, labelled: bool, in_class_folders: bool, folders: dict[str, int]) -> Iterator[Batch]:
    """Reads a list of any length in pieces.

    A line is a name and, where ``labelled``, a class index 0..364: ``/a/airfield/00000001.jpg 0``. Blank lines are
    passed over, Windows' "\\" is "/", and lines end as on any system. Outside of class folders an image may be listed
    once; in them, where a list has millions, its label cannot be two, and ``check_root`` counts the lines.

    Args:
        in_class_folders: the names lie in the folders of their classes (the training lists), which are checked
            against the labels.
        folders: filled while reading: the folders of the images, relative to the image folder ("" is the folder
            itself), and their numbers 0, 1, … in the order of appearance.

    Raises:
        UserError: naming file and line: a malformed line, a label outside 0..364, a folder that is not that of
            the label's class, or an image that an earlier line lists.
    """
    # What a line says beside the file's own name is the same for thousands of lines, so it is looked at once.
    places: dict[tuple[bytes, bytes], tuple[int, int]] = {}
    seen: dict[tuple[int, bytes], int] = {}
    expected = "a file name and its class index, as in '/a/airfield/00000001.jpg 0'" if labelled else "a file name"

    def where(number: int, line: bytes) -> str:
        text = line.strip().decode("utf-8", "backslashreplace")
        return f"{path}, line {number}: {text[:120]!r}"

    number = 0
    with (
        _opened(path) as file,
        tqdm(
            total=os.fstat(file.fileno()).st_size, desc=f"reading {path.name}", unit="B", unit_scale=True,
            leave=False, disable=None,
        ) as progress,
    ):  # fmt: skip
        for lines in _lines(file):
            folder_numbers, labels, names = [], [], []
            if number == 0:
                lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
            for line in map(_with_slashes, lines):
                number += 1
                fields = line.rsplit(None, 1) if labelled else (line.strip(), b"")
                if len(fields) != 2 or not fields[0]:
                    if not line.strip():
                        continue
                    raise UserError(f"{where(number, line)} is not {expected}")
                folder, _, name = fields[0].rpartition(b"/")
                place = places.get((folder, fields[1]))
                if place is None:
                    place = _place(where(number, line), folder, fields[1], in_class_folders, folders)
                    places[folder, fields[1]] = place
                if not name or b"\0" in name:
                    raise UserError(f"{where(number, line)} is not {expected}")
                if not in_class_folders and (before := seen.setdefault((place[0], name), number)) != number:
                    raise UserError(f"{where(number, line)} is listed in line {before} already; keep one of the two")
                folder_numbers.append(place[0])
                labels.append(place[1])
                names.append(name)
            progress.update(file.tell() - progress.n)
            yield folder_numbers, labels, names


def _place(where: str, folder: bytes, label: bytes, in_class_folders: bool, folders: dict[str, int]) -> tuple[int, int]:
    """(number of the folder, class index or -1) of a line whose parts these are."""
    parts = [part for part in os.fsdecode(folder).split("/") if part not in ("", ".")]
    relative = "/".join(parts)
    if ".." in parts:
        raise UserError(f"{where} points out of the image folder")
    index = -1
    if label:
        if not label.isdigit():
            raise UserError(f"{where}: the class index {os.fsdecode(label)!r} is not a whole number")
        index = int(label) if len(label) < 10 else len(PLACES365)  # Python refuses numbers of thousands of digits
        if index >= len(PLACES365):
            raise UserError(f"{where}: the class index is not in 0..{len(PLACES365) - 1}")
        if in_class_folders and class_index(relative) != index:
            raise UserError(
                f"{where}: the folder {relative!r} is not that of class {index}, which is {PLACES365[index]}. "
                "Is the list of another set, or were its labels renumbered (by sorted folder names, say)?"
            )
    return folders.setdefault(relative, len(folders)), index


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A list's bytes. Raises UserError where it cannot be read, or is in an encoding that has no lines of ASCII."""
    try:
        with open(path, "rb") as file:
            if file.read(2) in _OTHER_ENCODINGS:
                raise UserError(f"the list {path} is written in UTF-16: save it as UTF-8")
            file.seek(0)
            yield file
    except OSError as error:
        raise _unreadable(path, error) from None


def _lines(file: BinaryIO) -> Iterator[list[bytes]]:
    """A list's lines without their ends, some MB at once; an end is "\\n", "\\r\\n", or "\\r" as on old Macs."""
    while lines := file.readlines(_CHUNK):
        yield b"".join(lines).splitlines()


def _with_slashes(line: bytes) -> bytes:
    return line.replace(b"\\", b"/") if b"\\" in line else line


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read the list {path}: {error.strerror or error}")
