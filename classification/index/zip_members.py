"""What is in a zip, by its directory (PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5)."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator

from classification.index.archive_file import ENCRYPTED, LINK, PACKED, STORED, ArchiveFile, Member, damaged
from engine.errors import UserError

_END = struct.Struct("<4s4H2LH")  # end of central directory
_LOCATOR = struct.Struct("<4sLQL")  # zip64 end of central directory locator
_END64 = struct.Struct("<4sQ2H2L4Q")  # zip64 end of central directory
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")  # a file's header in the central directory
_LOCAL = struct.Struct("<4s5H3L2H")  # a file's header in front of its data
_MAX_COMMENT = 2**16 - 1
_NONE16, _NONE32 = 2**16 - 1, 2**32 - 1  # the value stands in a zip64 field
_IS_ENCRYPTED, _IS_UTF8 = 1 << 0, 1 << 11  # flags
_UNIX = (3, 19)  # systems whose names are bytes: Unix, OS X
_DOS = (0, 10, 11, 14)  # whose names are in code page 437, at times with "\\": FAT, NTFS, MVS, VFAT
_ZIP64_FIELD = 1


def zip_members(file: ArchiveFile) -> Iterator[Member]:
    """The files and folders of a zip's directory.

    Names that are not marked as UTF-8 are taken as they are from Unix, and as code page 437 from Windows.

    Raises:
        UserError: the archive is cut off, damaged, or one part of several.
    """
    directory, entries, begin = _directory(file)
    at = 0
    for _ in range(entries):
        if at + _ENTRY.size > len(directory):
            raise damaged(file.stamp.path, "its directory is shorter than it says")
        (mark, _, system, _, _, flags, method, _, _, _, packed, size, name_size, extra_size, comment_size, _, _,
         attributes, offset) = _ENTRY.unpack_from(directory, at)  # fmt: skip
        if mark != b"PK\x01\x02":
            raise damaged(file.stamp.path, "its directory is not where it says")
        at += _ENTRY.size
        name = directory[at : at + name_size]
        at += name_size
        if _NONE32 in (packed, size, offset):
            size, packed, offset = _zip64(file, directory[at : at + extra_size], size, packed, offset)
        at += extra_size + comment_size
        if offset + packed > begin or (method == 0 and not flags & _IS_ENCRYPTED and packed != size):
            raise damaged(file.stamp.path, f"its directory has impossible numbers for {name[:120]!r}")
        kind = ENCRYPTED if flags & _IS_ENCRYPTED else PACKED if method else STORED
        if system in _UNIX and stat.S_ISLNK(attributes >> 16):
            kind = LINK
        yield Member(_as_bytes(name, flags, system), offset, size, kind, name_size)


def data_begin(file: ArchiveFile, offset: int, head: int) -> int | None:
    """Where a file's data begin: its own header, at ``offset``, says how long it is itself. None where there is no such
    header.

    Args:
        head: bytes of its name, by the directory.
    """
    mark, _, _, method, _, _, _, _, _, name_size, extra_size = _LOCAL.unpack(file.read(offset, _LOCAL.size))
    if mark != b"PK\x03\x04" or name_size != head or method:
        return None
    return offset + _LOCAL.size + name_size + extra_size


def _directory(file: ArchiveFile) -> tuple[bytes, int, int]:
    """(the central directory, its number of entries, where it begins)."""
    size = file.stamp.size
    tail = min(size, _END.size + _MAX_COMMENT)
    end = bytes(file.read(size - tail, tail))
    at = end.rfind(b"PK\x05\x06")
    while at >= 0 and (
        at + _END.size > tail or at + _END.size + int.from_bytes(end[at + 20 : at + 22], "little") != tail
    ):
        at = end.rfind(b"PK\x05\x06", 0, at)  # it was within the comment
    if at < 0:
        raise damaged(file.stamp.path, "the directory at the end of a zip is missing")
    _, disk, _, _, entries, length, begin, _ = _END.unpack_from(end, at)
    parts = disk + 1
    at += size - tail  # in the file
    if _NONE16 in (disk, entries) or _NONE32 in (length, begin):
        entries, length, begin, parts = _end64(file, at) or (entries, length, begin, parts)
    if parts > 1:
        raise UserError(
            f"{file.stamp.path} is one of the {parts} parts of a zip: put them together (zip -s 0 -O WHOLE.zip)"
        )
    if begin + length > at:
        raise damaged(file.stamp.path, "its directory is said to lie behind its end")
    return bytes(file.read(begin, length)), entries, begin


def _end64(file: ArchiveFile, end: int) -> tuple[int, int, int, int] | None:
    """(entries, length, begin, parts) by the zip64 record in front of the end record; None where there is none."""
    at = end - _LOCATOR.size
    if at < 0:
        return None
    mark, _, record, parts = _LOCATOR.unpack(file.read(at, _LOCATOR.size))
    if mark != b"PK\x06\x07":
        return None
    if record + _END64.size > at:
        raise damaged(file.stamp.path, "its zip64 directory is said to lie behind its end")
    mark, _, _, _, _, _, _, entries, length, begin = _END64.unpack(file.read(record, _END64.size))
    if mark != b"PK\x06\x06":
        raise damaged(file.stamp.path, "its zip64 directory is not where it says")
    return entries, length, begin, parts


def _zip64(file: ArchiveFile, extra: bytes, *values: int) -> list[int]:
    """The 64-bit values for those that have no room in 32, in the order in which they stand."""
    at = 0
    while at + 4 <= len(extra):
        field, length = struct.unpack_from("<2H", extra, at)
        if field == _ZIP64_FIELD:
            large = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            found = [next(large, -1) if value == _NONE32 else value for value in values]
            if -1 not in found:
                return found
        at += 4 + length
    raise damaged(file.stamp.path, "a zip64 number is missing in its directory")


def _as_bytes(name: bytes, flags: int, system: int) -> bytes:
    if system in _DOS:
        name = name.replace(b"\\", b"/")
        if not flags & _IS_UTF8 and not name.isascii():
            return name.decode("cp437").encode()
    return name
