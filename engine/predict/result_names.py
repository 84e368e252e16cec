"""Names for results that no two share, and that a file system takes."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from engine.images.writing import WRITABLE_SUFFIXES
from engine.names import printable

_ROOM = 64  # bytes of a path for the name under which a file is written before it is renamed
_LONGEST_SUFFIX = 16  # bytes; what is longer is no suffix that says anything


class ResultNames:
    """Gives each result a place of its own below a folder.

    Names that would coincide get -2, -3, … before their suffix: equal ones, those that differ in upper and lower case
    or in the Unicode form of an accent alone (one file on macOS and Windows), and a file where another result needs a
    folder. Names that the file system would not take are cut, and keep apart by eight digits of their hash.

    Args:
        folder: where the results will lie; it need not exist.
        reserved: names in it that are taken.
    """

    def __init__(self, folder: str | os.PathLike, reserved: Iterable[str] = ()):
        self._folder = Path(os.path.abspath(folder))
        self._files, self._folders = {_key(Path(name)) for name in reserved}, set()
        self._longest_name, self._longest_path = (_limit(self._folder, *kind) for kind in _LIMITS)

    def unused(self, wanted: Path) -> Path:
        """``wanted``, a relative path, or what has to stand for it; from now on it is taken."""
        *folders, name = wanted.parts
        if len(os.fsencode(self._folder / wanted)) > self._longest_path - _ROOM:
            folders, name = [], _with_hash(name, str(wanted), self._longest_name)
        place = Path()
        for part in folders:
            place = self._free(place, part, lambda key: key not in self._files)
            self._folders.add(_key(place))
        place = self._free(place, name, lambda key: key not in self._files and key not in self._folders)
        self._files.add(_key(place))
        return place

    def _free(self, folder: Path, name: str, is_free: Callable[[str], bool]) -> Path:
        number, candidate = 1, folder / _shortened(name, self._longest_name)
        stem, suffix = _parts(name)
        while not is_free(_key(candidate)):
            number += 1
            candidate = folder / _shortened(f"{stem}-{number}{suffix}", self._longest_name)
        return candidate


def picture_name(name: Path) -> Path:
    """Under which a picture's drawn copy is written: its own name, or with .jpg behind it where that is of a kind that
    is not written."""
    return name if name.suffix.lower() in WRITABLE_SUFFIXES else name.with_name(f"{name.name}.jpg")


def flat_picture_name(name: str | os.PathLike) -> Path:
    """a_b_c.jpg for the picture a/b/c.png: the name of a JPEG for many folders' pictures in one folder."""
    parts = [printable(part) for part in Path(name).with_suffix("").parts if part not in ("/", "..")]
    return Path("_".join(parts).replace("\\", "_").lstrip(".") + ".jpg")


_LIMITS = (("PC_NAME_MAX", 255), ("PC_PATH_MAX", 4096))  # bytes of a name, and of a path; what is usual


def _limit(folder: Path, name: str, usual: int) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        return min(os.pathconf(existing, name), usual)
    except (OSError, ValueError, AttributeError):  # AttributeError: Windows has no pathconf
        return usual


def _key(path: Path) -> str:
    """The same for paths that some file system takes for one."""
    return unicodedata.normalize("NFC", path.as_posix()).casefold()


def _shortened(name: str, limit: int) -> str:
    return name if len(os.fsencode(name)) <= limit else _with_hash(name, name, limit)


def _with_hash(name: str, full: str, limit: int) -> str:
    stem, suffix = _parts(name)
    mark = f"~{hashlib.sha256(os.fsencode(full)).hexdigest()[:8]}{suffix}"
    while len(os.fsencode(stem + mark)) > limit:
        stem = stem[:-1]
    return stem + mark


def _parts(name: str) -> tuple[str, str]:
    suffix = Path(name).suffix
    suffix = suffix if len(os.fsencode(suffix)) <= _LONGEST_SUFFIX else ""
    return name.removesuffix(suffix), suffix
