"""What is in a zip or tar, as Python's zipfile and tarfile list it."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator

from tqdm import tqdm

from classification.index.archive_file import (
    ENCRYPTED,
    LINK,
    PACKED,
    SPARSE,
    STORED,
    ArchiveFile,
    Member,
    UnreadablePiece,
    damaged,
)
from engine.errors import UserError

BLOCK = tarfile.BLOCKSIZE
_PIECE = 2**20  # bytes that are read at a time
_LOCAL = struct.Struct("<4s5H3L2H")  # a zip's header in front of a file's data (APPNOTE.TXT 6.3.10, section 4.3.7)
_ENTRY = 46  # bytes of a file's entry in the directory, without name, extra fields and comment (section 4.3.12)
# The records that may follow the directory, up to the number of its entries (sections 4.3.14 and 4.3.16).
_ZIP64_END, _END = struct.Struct("<4sQ2H2L2Q"), struct.Struct("<4s4H")
_IS_ENCRYPTED, _IS_UTF8 = 1 << 0, 1 << 11  # flags of a zip's file
_DOS = (0, 10, 11, 14)  # systems whose names are in code page 437, at times with "\\": FAT, NTFS, MVS, VFAT


def zip_members(file: ArchiveFile) -> Iterator[Member]:
    """The files and folders of a zip's directory.

    Names that are not marked as UTF-8 are taken as they are from Unix, and as code page 437 from Windows. The directory
    has no checksum: each of its names is compared with the one that stands in front of the file's data.

    Raises:
        UserError: the archive is cut off, damaged, or one part of several.
    """
    path = file.stamp.path
    try:
        with zipfile.ZipFile(path) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, EOFError) as error:
        raise damaged(path, str(error) or type(error).__name__) from None
    except OSError as error:
        raise UnreadablePiece(path, error) from None
    title = f"reading {os.path.basename(path)}"
    for info in tqdm(infos, desc=title, unit=" files", unit_scale=True, leave=False, disable=None):
        if info.volume:
            raise UserError(f"{path} is one part of a zip of several: put them together (zip -s 0 -O WHOLE.zip)")
        kind = ENCRYPTED if info.flag_bits & _IS_ENCRYPTED else PACKED if info.compress_type else STORED
        if kind == STORED and info.compress_size != info.file_size:
            raise damaged(path, f"its directory has impossible numbers for {info.orig_filename[:120]!r}")
        if info.create_system not in _DOS and stat.S_ISLNK(info.external_attr >> 16):
            kind = LINK
        name, stored = _zip_name(info)
        end += _ENTRY + len(stored) + len(info.extra) + len(info.comment)
        yield Member(name, _data_begin(file, info, stored), info.file_size, kind)
    if not _ends_so(file, end, len(infos)):
        raise damaged(path, "its directory does not end where it should, or has not as many entries as it says")


def _ends_so(file: ArchiveFile, end: int, count: int) -> bool:
    """Whether a zip's directory of so many entries is followed by the record that says so."""
    record = bytes(file.read(end, min(max(file.stamp.size - end, 0), _ZIP64_END.size)))
    if record.startswith(b"PK\x06\x06") and len(record) == _ZIP64_END.size:
        return _ZIP64_END.unpack(record)[-1] == count
    return (
        record.startswith(b"PK\x05\x06") and len(record) >= _END.size and _END.unpack_from(record)[-1] == count % 2**16
    )


def _data_begin(file: ArchiveFile, info: zipfile.ZipInfo, stored: bytes) -> int:
    """Where the data of a zip's file begin: its own header says how long it is itself. Raises UserError where that is
    not there, or has another name than ``stored``."""
    begin = info.header_offset
    size = _LOCAL.size + len(stored)
    if 0 <= begin <= file.stamp.size - size:
        header = file.read(begin, size)
        mark, _, _, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack_from(header)
        found = (mark, method, name_size, bytes(header[_LOCAL.size :]))
        if found == (b"PK\x03\x04", info.compress_type, len(stored), stored):
            return begin + size + extra_size
    path = file.stamp.path
    raise damaged(path, f"{info.orig_filename[:120]!r} is not where its directory says, or has another name there")


def _zip_name(info: zipfile.ZipInfo) -> tuple[bytes, bytes]:
    """(a file's name, the same as it is stored). zipfile decodes what is not marked as UTF-8 by code page 437, which
    has a letter for every byte."""
    stored = info.orig_filename.encode("utf-8" if info.flag_bits & _IS_UTF8 else "cp437")
    if info.create_system not in _DOS:
        return stored, stored
    return info.orig_filename.replace("\\", "/").encode(), stored


def is_tar(beginning: bytes) -> bool:
    """Whether these are the first bytes of a tar: a header whose checksum holds."""
    try:
        tarfile.TarInfo.frombuf(beginning[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def tar_members(file: ArchiveFile) -> Iterator[Member]:
    """The files, links and folders of a tar; devices and the like are left out.

    Raises:
        UserError: the archive is cut off or damaged.
    """
    path, size = file.stamp.path, file.stamp.size
    title = f"reading {os.path.basename(path)}"
    with tqdm(total=size, desc=title, unit="B", unit_scale=True, leave=False, disable=None) as progress:
        try:
            with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # it keeps them all, a kilobyte each
                    progress.update(archive.offset - progress.n)
                    if (member := _member(info)) is not None:
                        yield member
                end = archive.offset
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise damaged(path, str(error) or type(error).__name__) from None
        except OSError as error:
            raise UnreadablePiece(path, error) from None
    # tarfile takes a header that is damaged, or missing, for the end.
    if end + BLOCK > size:
        raise damaged(path, f"it ends at byte {size:,} without the mark that ends a tar")
    if any(file.read(end, BLOCK)):
        raise damaged(path, f"at byte {end:,} there should be a header, and its checksum does not hold")
    # Nor does it look behind one that a disk's lost block has filled with zeros.
    for begin in range(end + BLOCK, size, _PIECE):
        if any(file.read(begin, min(_PIECE, size - begin))):
            raise damaged(
                path,
                f"there is more behind the mark that ends a tar, at byte {end:,}: a header is lost there, or another "
                "tar was put behind this one",
            )


def _member(info: tarfile.TarInfo) -> Member | None:
    name = os.fsencode(info.name)
    if info.isdir():
        return Member(name + b"/", info.offset_data, 0)
    if info.issparse():
        return Member(name, info.offset_data, info.size, SPARSE)
    if info.isreg():
        return Member(name, info.offset_data, info.size)
    if info.islnk():
        return Member(name, info.offset_data, 0, LINK, target=os.fsencode(info.linkname))
    return Member(name, info.offset_data, 0, LINK) if info.issym() else None
