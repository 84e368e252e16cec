"""What lies in a folder, on disk or in an archive."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from classification.index.archive import ArchiveEntry, ArchiveFolder, open_archive
from engine.errors import UserError
from engine.predict.image_files import is_clutter, is_picture, kind_passed_over

MAX_DEPTH = 8  # folders below each other; more are a loop of links

Folder = Path | ArchiveFolder


class DiskEntry:
    """What lies in a folder on disk.

    Attributes:
        name, is_folder: as they say; a link is what it leads to.
    """

    def __init__(self, entry: os.DirEntry):
        self.name, self.is_folder, self._path = entry.name, entry.is_dir(), entry.path

    def is_picture(self) -> bool:
        """Whether it is a file that is taken for a picture."""
        return is_picture(self._path)

    @property
    def kind(self) -> str:
        """What it is counted under where it is none."""
        return kind_passed_over(self.name)


def folder_at(path: str | os.PathLike) -> Folder:
    """The folder of this path, or the top one of the archive. Raises UserError where a file is no archive that can be
    read in place."""
    path = Path(path).expanduser()
    return open_archive(path) if path.is_file() else path


def entries_of(folder: Folder) -> Iterator[DiskEntry | ArchiveEntry]:
    """What lies in a folder but for hidden things and other clutter, in no order. Raises UserError where it cannot be
    read."""
    if isinstance(folder, ArchiveFolder):
        yield from (entry for entry in folder.entries() if not is_clutter(entry.name))
        return
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_clutter(entry.name):
                    yield DiskEntry(entry)
    except OSError as error:
        raise unreadable_folder(folder, error) from None


def subfolders(folder: Folder) -> list[str]:
    """The names of the folders in a folder, sorted. Raises as ``entries_of``."""
    return sorted(entry.name for entry in entries_of(folder) if entry.is_folder)


def own_images(folder: Folder) -> list[str]:
    """The names of the images that lie in a folder itself, in no order. Raises as ``entries_of``."""
    return [entry.name for entry in entries_of(folder) if not entry.is_folder and entry.is_picture()]


def modified(folder: Folder) -> int:
    """The modification time of a folder, or of the archive that it is in, in ns. Raises UserError where there is
    none."""
    if isinstance(folder, ArchiveFolder):
        return folder.archive.file.stamp.modified
    try:
        return os.stat(folder).st_mtime_ns
    except OSError as error:
        raise unreadable_folder(folder, error) from None


def places(folder: Folder, names: list[bytes]) -> tuple[list[int], list[int]] | tuple[()]:
    """Where images of a folder lie in its archive, for a ``Batch``; nothing on disk. Raises as
    ``ArchiveFolder.places``."""
    return folder.places(names) if isinstance(folder, ArchiveFolder) else ()


def has_file(folder: Folder, name: str) -> bool:
    """Whether there is a file of this name in a folder, which need not be there itself."""
    if isinstance(folder, ArchiveFolder):
        files = folder.archive.files(folder.path)
        return files is not None and os.fsencode(name) in files.names
    return (folder / name).is_file()


def read_file(folder: Folder, name: str) -> bytes | None:
    """The content of a file in a folder; None where there is no such file. Raises UserError where it cannot be read."""
    if isinstance(folder, ArchiveFolder):
        files = folder.archive.files(folder.path)
        row = None if files is None else files.rows().get(os.fsencode(name))
        return None if row is None else bytes(folder.archive.file.read(*folder.archive.place(folder.path, files, row)))
    try:
        return (folder / name).read_bytes() if (folder / name).is_file() else None
    except OSError as error:
        raise UserError(f"cannot read {folder / name}: {error.strerror}") from None


def walk_images(
    root: Folder, folder: str, passed_over: Counter[str] | None = None
) -> Iterator[tuple[str, int, list[bytes]]]:
    """The images in ``folder`` and the folders below it.

    Args:
        passed_over: the other files, hidden ones left out, are counted here by their kind.

    Yields:
        (folder relative to ``root``, its modification time in ns, the names of the images in it, sorted). The time
        is taken before the folder is read: a file that comes later changes it.

    Raises:
        UserError: a folder cannot be read, or folders are nested without end.
    """
    if folder.count("/") > MAX_DEPTH + 2:
        raise UserError(f"{root / folder}: folders are nested too deeply; does a link point back up?")
    names, below = [], []
    time = modified(root / folder)
    for entry in entries_of(root / folder):
        if entry.is_folder:
            below.append(entry.name)
        elif entry.is_picture():
            names.append(os.fsencode(entry.name))
        elif passed_over is not None:
            passed_over[entry.kind] += 1
    yield folder, time, sorted(names)
    for name in sorted(below):
        yield from walk_images(root, f"{folder}/{name}", passed_over)


def unreadable_folder(folder: os.PathLike, error: OSError) -> UserError:
    """What is said where a folder, or a link in it, cannot be read."""
    return UserError(f"cannot read the folder {error.filename or folder}: {error.strerror}")
