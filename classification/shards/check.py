"""Shards as they are now against what they were when they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from classification.index.columns import read_index
from classification.index.shard_files import shard_name
from classification.shards.mds import HASH, INDEX
from classification.shards.split import find_shards, read_stored
from engine.errors import UserError

_BLOCK_BYTES = 1 << 22


def check_shards(root: Path, split: str) -> list[str]:
    """Reads a split's shards through. Returns a sentence on each that is not what it was.

    Raises:
        UserError: there are none, or what lies beside them (names, labels, checksums) is damaged itself.
    """
    found = find_shards(root, split)
    if found is None:
        raise UserError(f"{root} has no shards")
    read_stored(found.stored, read_index)
    stated = list(_stated(root / split, len(found.shards)))
    whole = sum(size for _, size, _ in stated)
    progress = tqdm(total=whole, desc=split, unit="B", unit_scale=True, leave=False, disable=None)
    problems = []
    with progress:
        for path, size, digest in stated:
            if not path.is_file():
                problems.append(f"{path} is missing")
            elif path.stat().st_size != size:
                problems.append(f"{path} has {path.stat().st_size:,} bytes, and had {size:,}")
            elif _digest(path, progress) != digest:
                problems.append(f"{path} has another checksum than when it was made")
    return problems


def _stated(folder: Path, count: int) -> Iterator[tuple[Path, int, str]]:
    """(path, bytes, checksum) of each shard, as index.json has them."""
    try:
        shards = json.loads((folder / INDEX).read_bytes())["shards"]
        if len(shards) != count:
            raise ValueError(f"it has {len(shards)} shards in place of {count}")
        for number, shard in enumerate(shards):
            yield folder / shard_name(number), int(shard["raw_data"]["bytes"]), shard["raw_data"]["hashes"][HASH]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / INDEX} is damaged ({error}): copy the shards again, or make them anew") from None


def _digest(path: Path, progress: tqdm) -> str:
    found = hashlib.new(HASH)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found.update(block)
            progress.update(len(block))
    return found.hexdigest()
