"""Archives of a folder, made in every way that people make them."""

import os
import tarfile
import zipfile
from pathlib import Path


def make_zip(folder: Path, path: Path, top: str = "", folders: bool = False, big: bool = False, links: bool = False):
    """An uncompressed zip of all that is in a folder.

    Args:
        top: what the names begin with.
        folders: have entries for folders.
        big: with zip64's records, as from 4 GiB on.
        links: keep links as links.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            name = top + file.relative_to(folder).as_posix()
            if file.is_symlink() and links:
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o120777 << 16
                archive.writestr(info, os.readlink(file))
            elif file.is_file():
                with archive.open(zipfile.ZipInfo(name), "w", force_zip64=big) as out:
                    out.write(file.read_bytes())
            elif folders:
                archive.write(file, name)
    if big:
        _with_zip64_end(path)
    return path


def _with_zip64_end(path: Path):
    """Puts the records in front of the end that a zip has from 65,536 files or 4 GiB on."""
    import struct

    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    _, _, _, _, entries, length, begin, _ = struct.unpack("<4s4H2LH", data[end : end + 22])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, length, begin)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:end] + record + locator + last)


def make_tar(folder: Path, path: Path, top: str = "", form: int = tarfile.GNU_FORMAT, folders: bool = True):
    """An uncompressed tar of all that is in a folder; hard links and links are kept as they are."""
    with tarfile.open(path, "w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        for file in sorted(folder.rglob("*")):
            if folders or not file.is_dir():
                archive.add(file, top + file.relative_to(folder).as_posix(), recursive=False)
    return path
