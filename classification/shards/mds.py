"""Shards in MDS, the format of mosaicml-streaming, whose own classes read what is written here.

Source of the format: MosaicML Streaming 0.13.0, documentation ("Dataset Format", MDS) and
streaming/base/format/mds/writer.py, whose files these equal byte for byte. A shard is, all numbers little-endian:

    n                    uint32, samples
    offsets              (n + 1) × uint32: where each sample begins, and the last ends
    config               JSON, what was asked for
    samples              the sizes of their image and name (uint32), image, label (int64), name

A folder of shards has an ``index.json`` with the size and the checksum of each.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.errors import UserError
from se_backbones.files import atomic_path, write_atomically

INDEX = "index.json"
HASH = "sha256"
MAX_BYTES = 2**32 - 1  # offsets are uint32
_COLUMNS = {"image": ("bytes", None), "label": ("int", 8), "name": ("str", None)}  # encoding, and size if it has one
_HEAD, _LABEL = struct.Struct("<2I"), struct.Struct("<q")


def config(limit: int) -> dict:
    """What every shard of a folder says of itself. Args: limit: see ``Shard``."""
    return {
        "column_encodings": [encoding for encoding, _ in _COLUMNS.values()],
        "column_names": list(_COLUMNS),
        "column_sizes": [size for _, size in _COLUMNS.values()],
        "compression": None,
        "format": "mds",
        "hashes": [HASH],
        "size_limit": limit,
        "version": 2,
    }


@dataclass
class Shard:
    """Samples that become one file.

    Attributes:
        limit: bytes of the file; one sample alone may be larger.
    """

    limit: int
    _samples: list[bytes] = field(default_factory=list)
    _size: int = 0

    def __post_init__(self):
        self._config = json.dumps(config(self.limit), sort_keys=True).encode()
        self._size = 8 + len(self._config)

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, image: bytes, label: int, name: bytes) -> bool:
        """Takes a sample up, if it fits.

        Args:
            name: UTF-8 for other readers; any bytes are kept.

        Raises:
            UserError: it fits in no shard.
        """
        sample = b"".join((_HEAD.pack(len(image), len(name)), image, _LABEL.pack(label), name))
        size = self._size + len(sample) + 4
        if size > self.limit and self._samples:
            return False
        if size > MAX_BYTES:
            raise UserError(f"{name.decode(errors='backslashreplace')} has {len(image):,} bytes: more than a shard can")
        self._samples.append(sample)
        self._size = size
        return True

    def write(self, path: Path) -> dict:
        """Writes the file, whole or not at all. Returns what ``index.json`` says of it. Raises OSError where it cannot
        be written."""
        offsets = np.zeros(len(self) + 1, "<u4")
        np.cumsum([len(sample) for sample in self._samples], out=offsets[1:])
        offsets += 4 + offsets.nbytes + len(self._config)
        digest = hashlib.new(HASH)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            for part in (struct.pack("<I", len(self)), offsets.tobytes(), self._config, *self._samples):
                digest.update(part)
                file.write(part)
        raw = {"basename": path.name, "bytes": self._size, "hashes": {HASH: digest.hexdigest()}}
        return {"raw_data": raw, "samples": len(self), "zip_data": None, **config(self.limit)}


def write_set_index(folder: Path, rows: list[dict]) -> None:
    """The ``index.json`` of a folder's shards. Args: rows: what ``Shard.write`` returned, in order."""
    write_atomically(folder / INDEX, json.dumps({"shards": rows, "version": 2}, sort_keys=True))


def image_places(path: Path, images: int, name_sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in a shard its images lie.

    Args:
        images: how many there are.
        name_sizes: (images,) bytes of their names.

    Returns:
        (images,) uint64 each: their first bytes' places, and their sizes.

    Raises:
        UserError: the file is not that shard.
    """
    try:
        with open(path, "rb") as file:
            begin = np.frombuffer(file.read(4 * (images + 2)), "<u4").astype(np.int64)
            size = file.seek(0, 2)
    except OSError as error:
        raise UserError(f"cannot read the shard {path}: {error.strerror}") from None
    count, offsets = begin[:1], begin[1:]
    sizes = np.diff(offsets) - _HEAD.size - _LABEL.size - name_sizes
    if len(begin) != images + 2 or count[0] != images or offsets[-1] != size or (sizes < 0).any():
        raise UserError(f"the shard {path} is damaged: it does not hold the {images:,} images that it was made of")
    return (offsets[:-1] + _HEAD.size).astype(np.uint64), sizes.astype(np.uint64)
