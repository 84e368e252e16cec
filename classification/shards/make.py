"""Shards made of the images of any index: whole or not there, and gone on with after a kill."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from classification.images.broken_files import MAX_SHOWN, broken_limit
from classification.index.cache_folder import index_folder
from classification.index.columns import write_index
from classification.index.index import ImageIndex
from classification.index.shard_files import shard_name
from classification.shards.mds import Shard, image_places, write_set_index
from classification.shards.split import IMAGES, MADE_OF, unfinished_folder
from engine.errors import UserError
from engine.images.reading import UnreadableImage
from se_backbones.files import write_atomically

logger = logging.getLogger(__name__)

JOURNAL = "shards.jsonl"  # of the shards that are whole, while others are missing
_READ_AT_ONCE = 64  # images
_FORMAT = 1


@dataclass(frozen=True)
class Options:
    """How shards are made.

    Attributes:
        limit: bytes of a shard.
        max_broken_share: of the images that may be unreadable, 0..1, as DATA.MAX_BROKEN_SHARE.
        threads: that read images.
        tell: gets sentences on what is there already.
    """

    limit: int
    max_broken_share: float
    threads: int = 16
    tell: Callable[[str], object] = print


def make_shards(index: ImageIndex, folder: Path, options: Options) -> list[str]:
    """Makes a folder of shards of all images of an index, in its order: their bytes as they are stored (pixels as PNG,
    which loses nothing), names, labels and classes.

    An image whose bytes cannot be read has none in the shards: whoever reads them finds it broken, as in the folder.

    The folder has another name until it is whole. What a killed process left there is gone on with, behind its last
    whole shard; a folder that is whole already is left as it is.

    Returns:
        the names of the images that could not be read.

    Raises:
        UserError: there is something else in the folder's place or in that of the unfinished one, another process is at
            work there, or too many images cannot be read.
        OSError: a shard cannot be written.
    """
    plan = {
        "format": _FORMAT,
        "made_of": index.source,
        "images": index.fingerprint(),
        "limit": options.limit,
    }
    if folder.exists() and any(folder.iterdir()):
        made = _plan_in(folder, plan, "name another folder, or remove it")
        options.tell(f"{folder} is whole already")
        return made["unreadable"]
    work = unfinished_folder(folder)
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        rows = _begun(index, work, plan)
        try:
            _write(index, work, rows, options)
        except KeyboardInterrupt:
            options.tell(f"{work} has {_images(rows):,} of {len(index):,} images; the same command goes on with it")
            raise
        unreadable = [name for row in rows for name in row.pop("unreadable")]
        _write_index(index, work, rows)
        write_set_index(work, rows)
        write_atomically(work / MADE_OF, json.dumps({**plan, "unreadable": unreadable}, indent=1))
        work.rename(folder)
        (folder / JOURNAL).unlink()
    return unreadable


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder, where its file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is making shards in {folder}: wait for it, or end it") from None
        except OSError:
            logger.warning("%s cannot be locked: see to it that no other process makes shards there", folder)
        yield
    finally:
        os.close(descriptor)


def _plan_in(folder: Path, plan: dict, advice: str) -> dict:
    """What a folder's shards were made of. Raises UserError where that is something else, or unknown."""
    try:
        there = json.loads((folder / MADE_OF).read_bytes())
        alike = all(there[key] == plan[key] for key in ("format", "images", "limit"))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} holds something else than shards made by this tool: {advice}") from None
    if not alike:
        raise UserError(
            f"{folder} has shards of other images or of another size ({there['images']['count']:,} images of "
            f"{there['made_of']} in shards of {there['limit']:,} bytes): {advice}"
        )
    return there


def _begun(index: ImageIndex, folder: Path, plan: dict) -> list[dict]:
    """The rows of the shards that are there and whole, up to one that lacks an image which can be read by now; the
    journal has these alone afterwards."""
    if not any(folder.iterdir()):
        write_atomically(folder / MADE_OF, json.dumps(plan, indent=1))
    _plan_in(folder, plan, "give the command that began it, or remove it")
    rows: list[dict] = []
    lines = (folder / JOURNAL).read_text().splitlines() if (folder / JOURNAL).exists() else []
    for line in lines:
        path = folder / shard_name(len(rows))
        try:
            row = json.loads(line)
        except ValueError:  # the process was killed within the line
            break
        if not path.exists() or path.stat().st_size != row["raw_data"]["bytes"]:
            break
        if any(isinstance(_content(index, index.position(name)), bytearray) for name in row["unreadable"]):
            break
        rows.append(row)
    write_atomically(folder / JOURNAL, "".join(map(_line, rows)))
    return rows


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"


def _images(rows: list[dict]) -> int:
    return sum(row["samples"] for row in rows)


def _write(index: ImageIndex, folder: Path, rows: list[dict], options: Options) -> None:
    """Writes the shards behind those of ``rows``, which get a row for each."""
    first, broken = _images(rows), sum(len(row["unreadable"]) for row in rows)
    if first:
        options.tell(f"going on with {folder}: {first:,} of {len(index):,} images in {len(rows):,} shards are there")
    limit = broken_limit(len(index), options.max_broken_share)
    shard, unreadable = Shard(options.limit), []

    def close() -> None:
        row = {**shard.write(folder / shard_name(len(rows))), "unreadable": unreadable}
        with open(folder / JOURNAL, "a") as journal:
            journal.write(_line(row))
        rows.append(row)

    with (
        ThreadPoolExecutor(options.threads) as pool,
        tqdm(total=len(index), initial=first, desc=folder.stem, unit="image", leave=False, disable=None) as progress,
    ):
        for position, content in _in_order(pool, lambda i: _content(index, i), range(first, len(index))):
            name, label = index.name(position), index.label(position)
            if isinstance(content, UnreadableImage):
                broken += 1
                if broken > limit:
                    names = [name for row in rows for name in row["unreadable"]] + unreadable
                    shown = ", ".join([*names, name][-MAX_SHOWN:])
                    raise UserError(
                        f"{broken:,} of {len(index):,} images cannot be read, and {limit:,} may be (a share of "
                        f"{options.max_broken_share:g}). The last: {content}. Among them: {shown}. Get them again and "
                        "give the same command, which goes on here, or allow more"
                    )
            data = b"" if isinstance(content, UnreadableImage) else content
            if not shard.add(data, label, os.fsencode(name)):
                close()
                shard, unreadable = Shard(options.limit), []
                shard.add(data, label, os.fsencode(name))
            if isinstance(content, UnreadableImage):
                unreadable.append(name)
            progress.update()
        if len(shard):
            close()


def _content(index: ImageIndex, position: int) -> bytes | bytearray | UnreadableImage:
    try:
        return index.content(position)
    except UnreadableImage as error:
        return error


def _in_order(pool: ThreadPoolExecutor, function: Callable, positions: range) -> Iterable[tuple[int, object]]:
    """(position, result) as the pool gives them, some at a time, not millions."""
    for first in range(0, len(positions), _READ_AT_ONCE):
        part = positions[first : first + _READ_AT_ONCE]
        yield from zip(part, pool.map(function, part), strict=True)


def _write_index(index: ImageIndex, folder: Path, rows: list[dict]) -> None:
    """Names, labels and places, as columns beside the shards."""
    for left in folder.glob(f"{IMAGES}.*"):
        shutil.rmtree(left)
    folders = np.array([len(os.fsencode(one)) + bool(one) for one in index.folders], np.int64)
    begins, sizes, first = np.zeros(len(index), np.uint64), np.zeros(len(index), np.uint64), 0
    for number, row in enumerate(rows):
        part = slice(first, first + row["samples"])
        cuts = index.columns.offsets[first : first + row["samples"] + 1].astype(np.int64)
        name_sizes = np.diff(cuts) + folders[index.folder_numbers[part]]
        begins[part], sizes[part] = image_places(folder / shard_name(number), row["samples"], name_sizes)
        first += row["samples"]
    content = {
        "folders": index.folders,
        "classes": index.classes,
        "shards": [[row["raw_data"]["bytes"], row["samples"]] for row in rows],
    }
    temporary = folder / f"{IMAGES}.part"
    temporary.mkdir()
    columns = replace(index.columns, begins=begins, sizes=sizes)
    identity = write_index(temporary, columns.batches(), lambda: (content, {"passed_over": index.passed_over}))
    temporary.rename(index_folder(folder / IMAGES, identity))
