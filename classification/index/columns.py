"""An index on disk: a folder of columns, NumPy's .npy files that are mapped into memory as they are.

``names.npy`` has the file names one after the other, without separators; their folders are listed once, in
``index.json``: 22 bytes an image for Places365's names, where its list has 30. ``index.json`` has the checksum of every
column and its own.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from classification.index.split import Batch

FORMAT = 2
DESCRIPTION = "index.json"
_BLOCK_BYTES = 1 << 20


class DamagedIndex(Exception):
    """The folder holds no whole index of this version; the message says why, without its name."""


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


COLUMNS = ("labels", "folder_numbers", "offsets", "names")


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


def write_index(folder: Path, batches: Iterable[Batch], describe: Callable[[], tuple[dict, dict]]) -> str:
    """Writes an index in one pass, and returns its identity, which equal ones share.

    Args:
        folder: an empty one.
        describe: called when the batches are through, for two dictionaries (JSON) to keep with the index: what belongs
            to its content, and what is only known of it.

    Raises:
        OSError: it cannot be written.
    """
    with open(folder / "names.npy", "wb") as file:
        _write_header(file, 0)
        begin = file.tell()
        columns = write_columns(batches, file)
        size = file.tell() - begin
        file.seek(0)
        _write_header(file, size)
        if file.tell() != begin:
            raise RuntimeError("NumPy's header of names.npy has grown into the names")
    for name in COLUMNS[:-1]:
        np.save(folder / f"{name}.npy", getattr(columns, name))
    sums = {name: _checksum(folder / f"{name}.npy") for name in COLUMNS}
    content, about = describe()
    identity = f"{zlib.crc32(_json([sums, content])):08x}"
    description = {"format": FORMAT, "identity": identity, "columns": sums, **content, **about}
    (folder / DESCRIPTION).write_bytes(_json({"checksum": zlib.crc32(_json(description)), **description}))
    return identity


def read_index(folder: Path, identity: str | None = None) -> tuple[dict[str, Any], Columns]:
    """Maps an index into memory.

    Args:
        identity: that of an index which this process, or the one that started it, has verified: the folder is then
            told by it and its columns are not read through.

    Returns:
        the description, with its "identity", and the columns (read-only, backed by the files).

    Raises:
        DamagedIndex: cut off, changed, of another version, or of another identity.
        OSError: it cannot be read.
    """
    text = (folder / DESCRIPTION).read_bytes()
    try:
        stored = json.loads(text)
        description = {key: value for key, value in stored.items() if key != "checksum"}
        whole = _json(stored) == text and zlib.crc32(_json(description)) == stored["checksum"]
    except (ValueError, AttributeError, KeyError):
        whole = False
    if not whole:
        raise DamagedIndex("its description has another checksum")
    if description["format"] != FORMAT:
        raise DamagedIndex(f"it has format {description['format']}, this is {FORMAT}")
    if identity not in (None, description["identity"]):
        raise DamagedIndex("it is another one")
    if identity is None and {name: _checksum(folder / f"{name}.npy") for name in COLUMNS} != description["columns"]:
        raise DamagedIndex("its data have another checksum")
    try:
        mapped = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in COLUMNS]
    except ValueError as error:
        raise DamagedIndex(str(error)) from None
    # Plain arrays on the mappings: numpy.memmap is slow to index.
    return description, Columns(*map(np.asarray, mapped))


def _write_header(file: BinaryIO, size: int) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, header)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _checksum(path: Path) -> int:
    """CRC-32 of a file, read rather than mapped: what is read does not count as this process's memory."""
    found = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found = zlib.crc32(block, found)
    return found
