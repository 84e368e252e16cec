"""The index on disk: columns of numbers and one long text, mapped into memory as they are.

    magic | names | labels | folder numbers | offsets | description (JSON) | trailer

Each column begins at a multiple of 8 bytes; numbers are little-endian. The names are the file names one after the
other, without separators, and their folders are listed once in the description: 22 bytes an image for the official
names, where the list itself has 30. The trailer holds the place and checksum of the description and the checksum of
everything before it.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from places365.official_list import Batch

FORMAT = 1
_MAGIC = b"SEINDEX\n"
_TRAILER = struct.Struct("<QII8s")  # where the description begins, its CRC-32, that of all before it, magic
_BLOCK = 1 << 20


class DamagedIndex(Exception):
    """The file is no whole index of this version; the message says why, without its name."""


@dataclass(frozen=True)
class Columns:
    """The images in order. ``names[offsets[i]:offsets[i + 1]]`` is the name of file i, without its folder.

    labels: (N,) int16, -1 without a label. folder_numbers: (N,) uint32. offsets: (N + 1,) uint32 or uint64.
    names: uint8.
    """

    labels: np.ndarray
    folder_numbers: np.ndarray
    offsets: np.ndarray
    names: np.ndarray


def write_columns(batches: Iterable[Batch], names: BinaryIO) -> Columns:
    """Collects batches into columns; the names go to ``names`` as they come, the rest (10 bytes an image) stays in
    memory. The result's ``names`` are empty."""
    folder_numbers, labels, lengths = array("I"), array("h"), array("I")
    for batch_folders, batch_labels, batch_names in batches:
        folder_numbers.extend(batch_folders)
        labels.extend(batch_labels)
        lengths.extend(map(len, batch_names))
        names.write(b"".join(batch_names))
    sizes = np.asarray(lengths)
    total = int(sizes.sum(dtype=np.uint64))
    offsets = np.zeros(len(sizes) + 1, "<u4" if total < 2**32 else "<u8")
    np.cumsum(sizes, out=offsets[1:], dtype=offsets.dtype)
    none = np.zeros(0, np.uint8)
    return Columns(np.asarray(labels, "<i2"), np.asarray(folder_numbers, "<u4"), offsets, none)


def write_index_file(path: Path, batches: Iterable[Batch], describe: Callable[[], tuple[dict, dict]]) -> None:
    """Writes an index in one pass.

    Args:
        path: written to as it is; see engine.files.atomic_path.
        describe: called when the batches are through, for two dictionaries (JSON) to keep with the index: what belongs
            to its content, and what is only known of it.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb") as file:
        out = _Summed(file)
        out.write(_MAGIC)
        columns = write_columns(batches, out)
        sections = {"names": [len(_MAGIC), "|u1", out.position - len(_MAGIC)]}
        for name in ("labels", "folder_numbers", "offsets"):
            column = getattr(columns, name)
            out.write(bytes(-out.position % 8))
            sections[name] = [out.position, column.dtype.str, len(column)]
            out.write(column.data)
        content, about = describe()
        identity = f"{zlib.crc32(_json([sections, content])):08x}{out.sum:08x}"
        text = _json({"format": FORMAT, "identity": identity, "sections": sections, **content, **about})
        file.write(text)
        file.write(_TRAILER.pack(out.position, zlib.crc32(text), out.sum, _MAGIC))


def read_index_file(path: Path, identity: str | None = None) -> tuple[dict[str, Any], Columns]:
    """Maps an index into memory.

    Args:
        identity: that of an index which this process, or the one that started it, has verified: the file is then told
            by it and not read through.

    Returns:
        the description, with its "identity", and the columns (read-only, backed by the file).

    Raises:
        DamagedIndex: cut off, changed, of another version, or of another identity.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(_MAGIC) + _TRAILER.size:
            raise DamagedIndex("it is cut off")
        file.seek(size - _TRAILER.size)
        start, text_sum, data_sum, magic = _TRAILER.unpack(file.read(_TRAILER.size))
        if magic != _MAGIC or not len(_MAGIC) <= start <= size - _TRAILER.size:
            raise DamagedIndex("it has no proper end")
        file.seek(start)
        text = file.read(size - _TRAILER.size - start)
        if zlib.crc32(text) != text_sum:
            raise DamagedIndex("its description has another checksum")
        description = json.loads(text)
        if description.get("format") != FORMAT:
            raise DamagedIndex(f"it has format {description.get('format')}, this is {FORMAT}")
        if identity not in (None, description["identity"]):
            raise DamagedIndex("it is another one")
        if identity is None and _sum(file, start) != data_sum:
            raise DamagedIndex("its data have another checksum")
        mapped = np.memmap(file, np.uint8, "r")  # of the open file: another may have taken its place by now

    def column(name: str) -> np.ndarray:
        begin, dtype, count = description["sections"][name]
        length = count * np.dtype(dtype).itemsize
        # A plain array on the mapping: numpy.memmap is slow to index.
        return np.asarray(mapped[begin : begin + length]).view(dtype)

    return description, Columns(*map(column, ("labels", "folder_numbers", "offsets", "names")))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


class _Summed:
    """A file written to, with the position and the CRC-32 of all that was written."""

    def __init__(self, file: BinaryIO):
        self.file, self.position, self.sum = file, 0, 0

    def write(self, data) -> None:
        self.file.write(data)
        self.position += len(data) if isinstance(data, bytes) else data.nbytes
        self.sum = zlib.crc32(data, self.sum)


def _sum(file: BinaryIO, size: int) -> int:
    """CRC-32 of the first bytes, read rather than mapped: what is read does not count as this process's memory."""
    file.seek(0)
    found = 0
    while size > 0:
        block = file.read(min(_BLOCK, size))
        if not block:
            break
        found = zlib.crc32(block, found)
        size -= len(block)
    return found
