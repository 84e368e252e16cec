"""What is in a tar, by the headers in front of its files (POSIX.1-2017, pax; and GNU's additions)."""

from __future__ import annotations

from collections.abc import Iterator

from tqdm import tqdm

from classification.index.archive_file import LINK, SPARSE, STORED, ArchiveFile, Member, damaged
from engine.errors import UserError

BLOCK = 512  # bytes
_MAX_HEADER = 2**20  # bytes of a long name or of pax records
_FILES = (b"0", b"\0", b"7")
_HARD_LINK, _SYMBOLIC_LINK, _FOLDER, _SPARSE, _PART = b"1", b"2", b"5", b"S", b"M"
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")
_LONG_NAMES = {b"L": "path", b"K": "linkpath"}
_PAX, _PAX_GLOBAL = (b"x", b"X"), b"g"
_ZEROS = bytes(BLOCK)


def is_tar(beginning: bytes) -> bool:
    """Whether these are the first bytes of a tar: a header whose checksum holds."""
    return len(beginning) >= BLOCK and beginning[:BLOCK] != _ZEROS and _checksum_holds(beginning[:BLOCK])


def tar_members(file: ArchiveFile) -> Iterator[Member]:
    """The files, links and folders of a tar; devices and the like are left out.

    Raises:
        UserError: the archive is cut off, damaged, or one part of several.
    """
    path, end, at = file.stamp.path, file.stamp.size, 0
    told: dict[str, bytes] = {}  # of the next file, by headers of their own
    title = f"reading {path.rpartition('/')[2]}"
    with tqdm(total=end, desc=title, unit="B", unit_scale=True, leave=False, disable=None) as progress:
        while True:
            if at + BLOCK > end:
                raise damaged(path, f"it ends at byte {end:,} without the mark that ends a tar")
            header = bytes(file.read(at, BLOCK))
            if header == _ZEROS:
                return
            if not _checksum_holds(header):
                raise damaged(path, f"at byte {at:,} there should be a header, and its checksum does not hold")
            kind, size = header[156:157], _number(header[124:136])
            about_next = kind in _PAX or kind in _LONG_NAMES
            if not about_next and told.get("size", b"").isdigit():
                size = int(told["size"])
            begin = at + BLOCK
            while kind == _SPARSE and header[-8 if begin > at + BLOCK else 482]:  # more of its map follows
                header, begin = bytes(file.read(begin, BLOCK)), begin + BLOCK
            size = 0 if kind in _WITHOUT_DATA else size
            if begin + size > end or size < 0:
                raise damaged(path, f"it ends at byte {end:,}, within a file of {size:,} bytes at byte {begin:,}")
            if about_next:
                if size > _MAX_HEADER:
                    raise damaged(path, f"at byte {at:,} a name has {size:,} bytes")
                data = bytes(file.read(begin, size))
                told |= _pax(path, at, data) if kind in _PAX else {_LONG_NAMES[kind]: data.rstrip(b"\0")}
            elif kind != _PAX_GLOBAL:
                if kind == _PART:
                    raise UserError(f"{path} is one part of a tar of several: put them together")
                if (member := _member(header, kind, begin, size, told)) is not None:
                    yield member
                told = {}
            at = begin + -(-size // BLOCK) * BLOCK
            progress.update(at - progress.n)


def _member(header: bytes, kind: bytes, begin: int, size: int, told: dict[str, bytes]) -> Member | None:
    name = told.get("path") or _text(header[:100])
    if "path" not in told and header[257:263] == b"ustar\0" and header[345]:
        name = _text(header[345:500]) + b"/" + name
    if kind in _FILES:
        return Member(name, begin, size, SPARSE if any(key.startswith("GNU.sparse") for key in told) else STORED)
    if kind == _FOLDER:
        return Member(name.rstrip(b"/") + b"/", begin, 0)
    if kind == _HARD_LINK:
        return Member(name, begin, 0, LINK, target=told.get("linkpath") or _text(header[157:257]))
    if kind in (_SYMBOLIC_LINK, _SPARSE):
        return Member(name, begin, size, LINK if kind == _SYMBOLIC_LINK else SPARSE)
    return None


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's binary ones behind a first bit; -1 for neither."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    try:
        return int(digits or b"0", 8)
    except ValueError:
        return -1


def _checksum_holds(header: bytes) -> bool:
    """Whether the sum of a header's bytes, its checksum taken for blanks, is what it says; of signed bytes, as some old
    programs summed."""
    found, unsigned = _number(header[148:156]), sum(header[:148]) + 8 * 32 + sum(header[156:])
    return found == unsigned or found == unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])


def _pax(path: str, at: int, data: bytes) -> dict[str, bytes]:
    """The records ``LENGTH KEY=VALUE\\n`` of a pax header."""
    records, begin = {}, 0
    while begin < len(data):
        digits, blank, _ = data[begin : begin + 20].partition(b" ")
        end = begin + int(digits) if blank and digits.isdigit() else 0
        key, sign, value = data[begin + len(digits) + 1 : end - 1].partition(b"=")
        if not begin < end <= len(data) or not sign:
            raise damaged(path, f"the pax header at byte {at:,} is none")
        records[key.decode("utf-8", "replace")] = value
        begin = end
    return records
