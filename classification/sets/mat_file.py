"""MATLAB's version 5 .mat files, as far as ImageNet's devkit needs them: one table of texts and numbers.

Source of the format: MathWorks, MAT-File Format, "Level 5 MAT-File Format".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

_HEADER = 128  # bytes, of which the last two say in which order bytes are
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}  # by type of data
_TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_STRUCT, _CHAR = 2, 4  # classes of arrays
_NUMERIC = range(6, 16)
_MAX_BYTES = 2**26  # unpacked; the devkit's have about a million


class NotUnderstood(ValueError):
    """The file is none of these, or has something that is not read; the message says what."""


def read_table(content: bytes, name: str) -> list[dict[str, Any]]:
    """The rows of a struct array.

    Args:
        content: a .mat file's.
        name: of the variable.

    Returns:
        for each row {field: text, number, or None for all else}.

    Raises:
        NotUnderstood: whatever it has that this reader does not know, or that does not fit together.
    """
    try:
        if content[126:128] != b"IM" or content[124:126] != b"\0\1":
            raise NotUnderstood("it is no little-endian MAT-file of version 5")
        for kind, data in _elements(content[_HEADER:]):
            if kind == _COMPRESSED:
                unpacker = zlib.decompressobj()
                data = unpacker.decompress(data, _MAX_BYTES)
                if not unpacker.eof:
                    raise NotUnderstood("its compressed data are too large or cut short")
                ((kind, data),) = _elements(data)
            if kind == _MATRIX and _name(data) == name:
                return _rows(data)
    except (struct.error, zlib.error, UnicodeDecodeError, IndexError, StopIteration, ValueError) as error:
        raise error if isinstance(error, NotUnderstood) else NotUnderstood(f"it is damaged ({error})") from None
    raise NotUnderstood(f"it has no variable {name}")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, content) of elements one behind the other."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<2I", data, at)
        if kind >> 16:  # a small one: type and size in 4 bytes, and 4 bytes of content
            size, kind, begin, end = kind >> 16, kind & 0xFFFF, at + 4, at + 8
            if size > 4:
                raise NotUnderstood("a small element in it has more than 4 bytes")
        else:
            begin = at + 8
            end = begin + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if begin + size > len(data):
            raise NotUnderstood("it is cut short")
        yield kind, data[begin : begin + size]
        at = end


def _head(data: bytes) -> tuple[int, int, bytes, list[tuple[int, bytes]]]:
    """(class, number of values, name, the elements behind these) of a matrix."""
    (_, flags), (_, sizes), (_, name), *rest = _elements(data)
    count = 1
    for size in struct.unpack(f"<{len(sizes) // 4}i", sizes):
        count *= size
    return flags[0], count, name, rest


def _name(data: bytes) -> str:
    return _head(data)[2].decode("latin1")


def _rows(data: bytes) -> list[dict[str, Any]]:
    kind, count, _, rest = _head(data)
    if kind != _STRUCT:
        raise NotUnderstood("the variable is no struct array")
    (_, width), (_, names), *cells = rest
    (length,) = struct.unpack("<i", width)
    fields = [names[at : at + length].partition(b"\0")[0].decode("latin1") for at in range(0, len(names), length)]
    if len(cells) != count * len(fields):
        raise NotUnderstood(f"it has {len(cells)} values for {count} rows of {len(fields)} fields")
    values = [_value(content) if kind == _MATRIX else None for kind, content in cells]
    return [dict(zip(fields, values[at : at + len(fields)], strict=True)) for at in range(0, len(values), len(fields))]


def _value(data: bytes) -> Any:
    if not data:  # an empty array may have nothing at all
        return None
    kind, count, _, rest = _head(data)
    if not rest:
        return None
    of_data, content = rest[0]
    if kind == _CHAR and of_data in _TEXTS:
        return content.decode(_TEXTS[of_data])
    if kind in _NUMERIC and count == 1 and of_data in _NUMBERS:
        return struct.unpack(f"<{_NUMBERS[of_data]}", content)[0]
    return None
