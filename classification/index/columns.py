"""An index on disk: a folder of columns, NumPy's .npy files that are mapped into memory as they are.

``names.npy`` has the file names one after the other, without separators; their folders are listed once, in
``index.json``: 22 bytes an image for Places365's names, where its list has 30. ``index.json`` has the checksum of every
column and its own. Only an archive's or shards' index has ``begins.npy`` and ``sizes.npy``, and only one of images that
are no files ``pixels.npy``.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

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
    names: uint8. begins: (N,) uint64 and sizes: (N,) uint32 or uint64, in bytes of an archive or shard. pixels:
    (N, H, W, 3) uint8.
    """

    labels: np.ndarray
    folder_numbers: np.ndarray
    offsets: np.ndarray
    names: np.ndarray
    begins: np.ndarray | None = None
    sizes: np.ndarray | None = None
    pixels: np.ndarray | None = None

    def batches(self, images: int = 2**14) -> Iterator[Batch]:
        """All of them in pieces, as they are read of a split; without pixels."""
        for first in range(0, len(self.labels), images):
            part = slice(first, first + images)
            cuts = self.offsets[first : first + images + 1].tolist()
            text, begin = self.names[cuts[0] : cuts[-1]].tobytes(), cuts[0]
            names = [text[one - begin : other - begin] for one, other in pairwise(cuts)]
            places = () if self.begins is None else (self.begins[part].tolist(), self.sizes[part].tolist())
            yield Batch(self.folder_numbers[part].tolist(), self.labels[part].tolist(), names, *places)


COLUMNS = ("labels", "folder_numbers", "offsets", "names")  # which every index has
_OTHERS = ("begins", "sizes", "pixels")  # which some have


def write_columns(
    batches: Iterable[Batch], names: Callable[[bytes], object], pixels: Callable[[np.ndarray], object]
) -> Columns:
    """Collects batches into columns; the names go to ``names`` as they come, pixels, (n, H, W, 3), to ``pixels``; the
    rest (10 bytes an image, 22 in an archive) stays in memory. The result has no pixels and no names."""
    folder_numbers, labels, lengths, begins, sizes = array("I"), array("h"), array("I"), array("Q"), array("Q")
    for batch in batches:
        batch = Batch(*batch)
        folder_numbers.extend(batch.folder_numbers)
        labels.extend(batch.labels)
        lengths.extend(map(len, batch.names))
        names(b"".join(batch.names))
        begins.extend(batch.begins)
        sizes.extend(batch.sizes)
        if batch.pixels is not None:
            pixels(batch.pixels)
    name_sizes = np.asarray(lengths)
    total = int(name_sizes.sum(dtype=np.uint64))
    offsets = np.zeros(len(name_sizes) + 1, "<u4" if total < 2**32 else "<u8")
    np.cumsum(name_sizes, out=offsets[1:], dtype=offsets.dtype)
    columns = np.asarray(labels, "<i2"), np.asarray(folder_numbers, "<u4"), offsets, np.zeros(0, np.uint8)
    if not begins:
        return Columns(*columns)
    return Columns(*columns, np.asarray(begins, "<u8"), np.asarray(sizes, "<u4" if max(sizes) < 2**32 else "<u8"))


class _GrowingFile:
    """A column of uint8 that is written piece by piece, with its length in the header at the end; no file where nothing
    is written."""

    def __init__(self, path: Path):
        self.path, self.shape, self._file, self._begin = path, (0,), None, 0

    def __enter__(self) -> _GrowingFile:
        return self

    def append(self, rows: np.ndarray) -> None:
        """Rows of one shape."""
        if self._file is None:
            self._file, self.shape = open(self.path, "wb"), (0, *rows.shape[1:])
            self._begin = self._write_header()
        self._file.write(np.ascontiguousarray(rows, np.uint8).data)
        self.shape = (self.shape[0] + len(rows), *self.shape[1:])

    def append_bytes(self, data: bytes) -> None:
        self.append(np.frombuffer(data, np.uint8))

    def _write_header(self) -> int:
        """Returns where it ends."""
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._file is None:
            return
        with self._file:
            if kind is None and self._write_header() != self._begin:
                raise RuntimeError(f"NumPy's header of {self.path.name} has grown into its data")


def write_index(folder: Path, batches: Iterable[Batch], describe: Callable[[], tuple[dict, dict]]) -> str:
    """Writes an index in one pass, and returns its identity, which equal ones share.

    Args:
        folder: an empty one.
        describe: called when the batches are through, for two dictionaries (JSON) to keep with the index: what belongs
            to its content, and what is only known of it.

    Raises:
        OSError: it cannot be written.
    """
    with _GrowingFile(folder / "names.npy") as names, _GrowingFile(folder / "pixels.npy") as pixels:
        names.append_bytes(b"")  # a file, whatever comes
        columns = write_columns(batches, names.append_bytes, pixels.append)
    for name in ("labels", "folder_numbers", "offsets", "begins", "sizes"):
        if (column := getattr(columns, name)) is not None:
            np.save(folder / f"{name}.npy", column)
    written = [name for name in (*COLUMNS, *_OTHERS) if (folder / f"{name}.npy").exists()]
    sums = {name: _checksum(folder / f"{name}.npy") for name in written}
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
    description = read_description(folder)
    if identity not in (None, description["identity"]):
        raise DamagedIndex("it is another one")
    sums = description["columns"]
    if identity is None and {name: _checksum(folder / f"{name}.npy") for name in sums} != sums:
        raise DamagedIndex("its data have another checksum")
    try:
        mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in sums}
    except ValueError as error:
        raise DamagedIndex(str(error)) from None
    # Plain arrays on the mappings: numpy.memmap is slow to index.
    return description, Columns(**{name: np.asarray(column) for name, column in mapped.items()})


def read_description(folder: Path) -> dict[str, Any]:
    """What ``index.json`` says. Raises as ``read_index``."""
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
    return description


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _checksum(path: Path) -> int:
    """CRC-32 of a file, read rather than mapped: what is read does not count as this process's memory."""
    found = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found = zlib.crc32(block, found)
    return found
