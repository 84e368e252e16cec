"""Folders in an archive: a zip or tar whose files are read in place, without unpacking."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from classification.index.archive_file import LINK, REFUSALS, STORED, ArchiveFile, Member, Stamp, damaged, stamp_of
from classification.index.archive_members import BLOCK, is_tar, tar_members, zip_members
from engine.errors import UserError
from engine.predict.image_files import is_picture, kind_passed_over

_ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# First bytes of what must be unpacked as a whole before a file in its middle can be read.
_PACKED_WHOLE = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
}
ADVICE = (
    "Unpack it and name the folder, or make an archive without packing: zip -0 -r X.zip FOLDER, or tar -cf X.tar FOLDER"
)
LINKS = "links"  # what those are counted under that are passed over


class _Files:
    """What lies in one folder of an archive: a row for each file in lists, as there may be millions."""

    def __init__(self):
        self.names: list[bytes] = []
        self.offsets, self.sizes, self.kinds = array("Q"), array("Q"), bytearray()
        self.folders: set[str] = set()

    def add(self, name: bytes, member: Member) -> None:
        self.names.append(name)
        self.offsets.append(member.offset)
        self.sizes.append(member.size)
        self.kinds.append(member.kind)

    def rows(self) -> dict[bytes, int]:
        """Name → row. Of several files of one name the last counts, which unpacking would leave."""
        return {name: row for row, name in enumerate(self.names)}


class Archive:
    """A zip or tar and what is in it, by folders.

    Args:
        stamp: of the file, which is told by its content, not by its name.

    Raises:
        UserError: it is no archive that can be read in place, or a damaged one; the message says what to do.
    """

    def __init__(self, stamp: Stamp):
        self.file = ArchiveFile(stamp)
        self._folders: dict[str, _Files] = {"": _Files()}
        known: dict[bytes, _Files] = {}
        hard_links: list[tuple[_Files, int, bytes]] = []
        for member in (zip_members if _is_zip(self.file) else tar_members)(self.file):
            folder, _, name = member.name.rpartition(b"/")
            if (files := known.get(folder)) is None:
                files = known[folder] = self._folder(os.fsdecode(folder))
            if name and name != b".":
                files.add(name, member)
                if member.target:
                    hard_links.append((files, len(files.names) - 1, member.target))
        self._resolve(hard_links)

    def _folder(self, path: str) -> _Files:
        """The folder of a path as archives write it ("./train//goldfish"), made together with those above it."""
        at, files = "", self._folders[""]
        for part in path.split("/"):
            if part not in ("", "."):
                files.folders.add(part)
                at = f"{at}/{part}" if at else part
                files = self._folders.setdefault(at, _Files())
        return files

    def _resolve(self, hard_links: list[tuple[_Files, int, bytes]]) -> None:
        """Hard links get the place of the file that they are as well; those to nowhere stay links."""
        rows: dict[int, dict[bytes, int]] = {}
        for files, row, target in hard_links:
            folder, _, name = target.rpartition(b"/")
            there = self._folder(os.fsdecode(folder))
            if id(there) not in rows:
                rows[id(there)] = {name: row for row, name in enumerate(there.names) if there.kinds[row] != LINK}
            if (found := rows[id(there)].get(name)) is not None:
                files.offsets[row], files.sizes[row] = there.offsets[found], there.sizes[found]
                files.kinds[row] = there.kinds[found]

    def files(self, folder: str) -> _Files | None:
        """What lies in a folder; None where there is no such one."""
        return self._folders.get(folder)

    def place(self, folder: str, files: _Files, row: int) -> tuple[int, int]:
        """(where a file's data begin, how many bytes they have).

        Raises:
            UserError: they cannot be read in place, or the archive is damaged.
        """
        begin, size, kind = files.offsets[row], files.sizes[row], files.kinds[row]
        path = self.file.stamp.path
        if kind in REFUSALS:
            name = f"{folder}/{os.fsdecode(files.names[row])}"
            raise UserError(f"{path}/{name} {REFUSALS[kind]}, and images are read in place. {ADVICE}")
        if begin + size > self.file.stamp.size:
            raise damaged(path, f"{folder}/{os.fsdecode(files.names[row])} ends behind the archive's own end")
        return begin, size


class ArchiveEntry:
    """What lies in a folder of an archive; as ``folders.DiskEntry``."""

    def __init__(self, folder: ArchiveFolder, name: str, row: int | None):
        self.name, self.is_folder, self._folder, self._row = name, row is None, folder, row

    def is_picture(self) -> bool:
        """Whether it is a file that is taken for a picture."""
        if self._row is None or self._folder.kind(self._row) == LINK:
            return False
        return is_picture(self.name, lambda: self._folder.content(self._row))

    @property
    def kind(self) -> str:
        """What it is counted under where it is none."""
        return LINKS if self._row is not None and self._folder.kind(self._row) == LINK else kind_passed_over(self.name)


@dataclass(frozen=True)
class ArchiveFolder:
    """A folder in an archive, as far as class folders need a ``Path``.

    Attributes:
        path: within the archive; "" is its top.
    """

    archive: Archive
    path: str = ""

    def __truediv__(self, name: str) -> ArchiveFolder:
        parts = [part for part in f"{self.path}/{name}".split("/") if part not in ("", ".")]
        return ArchiveFolder(self.archive, "/".join(parts))

    def __fspath__(self) -> str:
        return os.path.join(self.archive.file.stamp.path, self.path) if self.path else self.archive.file.stamp.path

    def __str__(self) -> str:
        return self.__fspath__()

    @property
    def name(self) -> str:
        return os.path.basename(self.__fspath__())

    def is_dir(self) -> bool:
        return self.archive.files(self.path) is not None

    def entries(self) -> Iterator[ArchiveEntry]:
        """Its folders and files, hidden ones too."""
        files = self.archive.files(self.path)
        for name in files.folders:
            yield ArchiveEntry(self, name, None)
        for name, row in files.rows().items():
            if (text := os.fsdecode(name)) not in files.folders:
                yield ArchiveEntry(self, text, row)

    def kind(self, row: int) -> int:
        return self.archive.files(self.path).kinds[row]

    def content(self, row: int) -> bytes:
        """A file's bytes; none where they cannot be read in place. Raises UserError where the archive is damaged."""
        files = self.archive.files(self.path)
        if files.kinds[row] != STORED:
            return b""
        return bytes(self.archive.file.read(*self.archive.place(self.path, files, row)))

    def places(self, names: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """(where the data of each of these files begin, how many bytes they have). Raises UserError where one cannot be
        read in place, or the archive is damaged."""
        files = self.archive.files(self.path)
        rows = files.rows()
        found = [self.archive.place(self.path, files, rows[name]) for name in names]
        return [begin for begin, _ in found], [size for _, size in found]


_latest: list[Archive] = []  # one: the splits of a set are found one after the other, and a listing takes its time


def open_archive(path: str | os.PathLike) -> ArchiveFolder:
    """The top folder of a zip or tar. Raises as ``Archive``."""
    stamp = stamp_of(path)
    if not _latest or _latest[0].file.stamp != stamp:
        _latest[:] = [Archive(stamp)]
    return ArchiveFolder(_latest[0])


def _is_zip(file: ArchiveFile) -> bool:
    """Whether it is a zip, else it is a tar. Raises UserError where it is neither."""
    path, beginning = file.stamp.path, bytes(file.read(0, min(file.stamp.size, BLOCK)))
    if beginning.startswith(_ZIP_MARKS):
        return True
    if is_tar(beginning):
        return False
    if packed := next((name for mark, name in _PACKED_WHOLE.items() if beginning.startswith(mark)), ""):
        raise UserError(f"{path} is packed as a whole ({packed}), and images are read in place. {ADVICE}")
    what = "is empty" if not beginning else "is neither a zip nor a tar, or its beginning is damaged"
    raise UserError(f"{path} {what}: name a folder with the images, or an archive of it (zip -0 -r, tar -cf)")
