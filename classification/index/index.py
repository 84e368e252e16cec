"""The images of a split and their labels: read once, kept on disk, mapped into memory by every process."""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import os
import shutil
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from classification.index.archive_file import ArchiveFile, Stamp, UnreadablePiece
from classification.index.cache_folder import (
    default_cache,
    discard,
    index_folder,
    remove_as_owner,
    remove_unfinished,
    stored_indices,
    temporary_name,
)
from classification.index.columns import Columns, DamagedIndex, read_index, write_columns, write_index
from classification.index.shard_files import ShardFiles
from classification.index.split import Batch, Split, modification_times
from engine.errors import UserError
from engine.images.reading import (
    MAX_PIXELS,
    DecodedImage,
    JpegImage,
    image_from_bytes,
    image_from_pixels,
    open_image,
    read_bytes,
    unreadable,
    whole,
)
from engine.images.writing import encoded
from engine.train.fingerprint import fingerprint

logger = logging.getLogger(__name__)

MAX_CLASSES = 2**15  # labels are int16
# A file changed twice within the step of the file system's clock keeps its time (2 s on FAT, the coarsest in use).
_CLOCK_STEP_NS = 2 * 10**9
MAX_ATTEMPTS = 3  # where the index that is opened is being replaced by an equal one


class ImageIndex:
    """Which images a split has: names, folders and labels of any number of them.

    One made by ``open_index`` is files mapped into memory: a process that gets it by fork or pickle maps the same
    files, and no memory is copied. Made by ``make_index`` it lives in memory and is pickled as a whole.

    Attributes:
        columns: all that is known of each image.
        classes: class names, by label.
        root: the names are relative to it.
        source: the list or folder that it was read from, for messages.
        labels: (N,) int16, -1 where an image has no label; read-only.
        folders, folder_numbers: ``folders[folder_numbers[i]]`` is the folder of image i relative to ``root``, ""
            for ``root`` itself.
        passed_over: how many files of which kind lie among the images and were not taken.
        sizes: (N,) bytes of each image in an archive or in shards; None elsewhere.
        of_files: whether each image is a file of its own, at its ``path``.
    """

    def __init__(
        self,
        columns: Columns,
        folders: Sequence[str],
        classes: Sequence[str],
        root: Path,
        source: str,
        stored: tuple[Path, str] | None = None,
        passed_over: Mapping[str, int] | None = None,
        archive: Sequence | None = None,
        shards: Sequence[Sequence[int]] | None = None,
    ):
        self.columns, self.classes, self.root, self.source = columns, list(classes), Path(root), source
        self.labels, self.folder_numbers, self.folders = columns.labels, columns.folder_numbers, list(folders)
        self.passed_over = dict(passed_over or {})
        self.labels.flags.writeable = False
        self._offsets, self._names = columns.offsets, columns.names
        self._pixels, self._begins, self.sizes = columns.pixels, columns.begins, columns.sizes
        self._archive = None if archive is None else ArchiveFile(Stamp(*archive))
        self._shards = None if shards is None else ShardFiles(self.root, shards)
        self.of_files = self._pixels is None and self._begins is None
        self._stored = stored  # as _open wants it

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ImageIndex({len(self):,} images of {len(self.classes)} classes from {self.source})"

    def name(self, index: int) -> str:
        """An image's path relative to ``root``, with "/". Raises IndexError outside 0..N-1."""
        folder = self.folders[self.folder_numbers[self._checked(index)]]
        file = os.fsdecode(self._names[self._offsets[index] : self._offsets[index + 1]].tobytes())
        return f"{folder}/{file}" if folder else file

    def path(self, index: int) -> Path:
        """An image's path, if only for messages (see ``of_files``). Raises IndexError outside 0..N-1."""
        folder = self.root if self._shards is None else self._shards.path(self._checked(index))
        return folder / self.name(index)

    def position(self, name: str) -> int | None:
        """Where an image of this name is; None where there is none."""
        folder, _, file = name.rpartition("/")
        if folder not in self.folders:
            return None
        wanted, length = os.fsencode(file), len(os.fsencode(file))
        for position in np.flatnonzero(self.folder_numbers == self.folders.index(folder)):
            begin, end = self._offsets[position : position + 2].tolist()
            if end - begin == length and self._names[begin:end].tobytes() == wanted:
                return int(position)
        return None

    def open(self, index: int, max_pixels: int = MAX_PIXELS) -> JpegImage | DecodedImage:
        """An image with its size, decoded when a part of it is asked for: the one door to the images of an index,
        wherever they lie.

        Args:
            max_pixels: as ``engine.images.reading.open_image``.

        Raises:
            UnreadableImage: as there; the message names the image by its ``path``.
            UserError: the archive or shard that it is in was changed, or is gone.
            IndexError: outside 0..N-1.
        """
        path = self.path(index)
        if self._pixels is not None:
            return image_from_pixels(self._pixels[index], path, max_pixels)
        if self._begins is None:
            return open_image(path, max_pixels)
        return image_from_bytes(self._piece(index), path, max_pixels)

    def content(self, index: int) -> bytes | bytearray:
        """An image's bytes as they are stored; of pixels, a PNG of them. Raises: as ``open``."""
        path = self.path(index)
        if self._pixels is not None:
            return encoded(self._pixels[index], "PNG")
        return read_bytes(path) if self._begins is None else self._piece(index)

    def _piece(self, index: int) -> bytearray:
        file = self._archive if self._shards is None else self._shards.file_of(index)
        try:
            return file.read(int(self._begins[index]), int(self.sizes[index]))
        except UnreadablePiece as error:
            raise unreadable(self.path(index), error.why) from error

    def read(self, index: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """A whole image, (H, W, 3) RGB uint8. Args, Raises: as ``open``."""
        return whole(self.open(index, max_pixels))

    def label(self, index: int) -> int:
        """An image's class index, -1 where it has none. Raises IndexError outside 0..N-1."""
        return int(self.labels[self._checked(index)])

    def fingerprint(self) -> dict:
        """What tells this list from one with other images or labels, as ``engine.train.fingerprint``."""
        columns = (self._names, self._offsets, self.folder_numbers, self.labels)
        texts = "\n".join(self.folders), "\n".join(self.classes)
        parts = (np.ascontiguousarray(column).view(np.uint8).data for column in columns)
        return fingerprint(len(self), (*map(os.fsencode, texts), *parts))

    def _checked(self, index: int) -> int:
        if not 0 <= operator.index(index) < len(self):
            raise IndexError(f"there is no image {index} among the {len(self)} of {self.source}")
        return index

    def __reduce__(self):
        if self._stored is None:
            return ImageIndex, (self.columns, self.folders, self.classes, self.root, self.source)
        return _open, (*self._stored, self.root, self.source)


def open_index(split: Split, cache: str | os.PathLike | None = None) -> ImageIndex:
    """The index of a split: from the cache where it is still true, else read from the list or the folders.

    The cache has a folder for each source and image folder. It is used when it is whole (checksums of all of it), its
    key is the split's (see ``Split.key``), and the files and folders it was read from have the modification times that
    they had: a folder's changes with each file that comes or goes. An index is written under a new name and never
    changed: processes that build it at once do the work twice and do no harm. Where the cache folder cannot be written
    to, the index lies in a temporary folder until this process ends.

    Args:
        cache: the folder for cached indices; by default ``se-backbones`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        UserError: the list has a wrong line (file and line are named), a folder cannot be read, there are no images
            or too many classes, or neither the cache nor the temporary folder can be written to.
    """
    if len(split.classes) > MAX_CLASSES:
        raise UserError(f"{split.source} has {len(split.classes):,} classes; at most {MAX_CLASSES:,} are supported")
    identity = json.dumps([os.path.abspath(split.source), os.path.abspath(split.image_root), split.name]).encode()
    name = f"{split.name.replace('/', '_')}-{hashlib.sha256(identity).hexdigest()[:16]}.index"
    try:
        path = Path(os.path.expanduser(cache or default_cache())).absolute() / name
        cached = _from_cache(split, path)
        return _build(split, path) if cached is None else cached
    except OSError as error:
        logger.warning("the index of %s cannot be kept in the cache folder: %s", split.source, str(error))
    try:
        temporary = Path(tempfile.mkdtemp(prefix="se-backbones-"))
        index = None
        try:
            index = _build(split, temporary / name)
        finally:
            if index is None:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"the index of {split.source} can be written neither to the cache nor to {tempfile.gettempdir()} "
            f"({error.strerror or error}): make room, or name a cache folder that can be written to (DATA.CACHE)"
        ) from None
    logger.warning("it lies in %s until this process ends", temporary)
    weakref.finalize(index, remove_as_owner, temporary, os.getpid())
    return index


def make_index(
    paths: Sequence[str | os.PathLike], labels: Sequence[int], classes: Sequence[str], root: str | os.PathLike
) -> ImageIndex:
    """An index in memory of the files that are named.

    Args:
        paths: relative to ``root``, or absolute.
        labels: class indices, -1 for none.

    Raises:
        ValueError: not a label for each path, or a label that is no class.
    """
    if len(paths) != len(labels):
        raise ValueError(f"{len(paths)} paths and {len(labels)} labels")
    wrong = [label for label in labels if not -1 <= label < len(classes)]
    if wrong:
        raise ValueError(f"label {wrong[0]} is not in -1..{len(classes) - 1}")
    folders: dict[str, int] = {}
    numbers, names = [], []
    for path in map(Path, paths):
        path = path.relative_to(root) if path.is_relative_to(root) else path
        folder = "" if path.parent == Path() else path.parent.as_posix()
        numbers.append(folders.setdefault(folder, len(folders)))
        names.append(os.fsencode(path.name))
    text = bytearray()
    columns = write_columns([Batch(numbers, list(map(int, labels)), names)], text.extend, text.extend)
    columns = Columns(columns.labels, columns.folder_numbers, columns.offsets, np.frombuffer(text, np.uint8))
    return ImageIndex(columns, list(folders), classes, Path(root), str(root))


def _open(path: Path, identity: str, root: Path, source: str) -> ImageIndex:
    """The index of this identity, which was verified when it was written or read: here, or in the process that pickled
    it. An equal one may have taken its place."""
    for attempt in range(MAX_ATTEMPTS):
        time.sleep(0.05 * attempt)
        try:
            description, columns = read_index(index_folder(path, identity), identity)
        except (DamagedIndex, OSError) as error:
            why = str(error)
        else:
            return _made(description, columns, description["classes"], root, source, (path, identity))
    raise UserError(f"the index {path} of {source} was changed while it was in use: {why}")


def _from_cache(split: Split, path: Path) -> ImageIndex | None:
    """The cached index, if it is there, whole, and still true."""
    for folder in stored_indices(path):
        try:
            description, columns = read_index(folder)
        except FileNotFoundError:
            continue
        except (DamagedIndex, OSError) as error:
            logger.warning("the cached index %s is not used: %s; it is made anew", folder, str(error))
            continue
        times = description["times"]
        if "passed_over" not in description:
            logger.info("the index of %s is of an earlier version: it is made anew", split.source)
        elif description["key"] != split.key() or modification_times(split, list(times)) != list(times.values()):
            logger.info("%s has changed since it was read: its index is made anew", split.source)
        elif not description["settled"]:
            logger.info("%s was being changed when it was read: its index is made anew", split.source)
        else:
            stored = path, description["identity"]
            return _made(description, columns, split.classes, Path(split.image_root), split.source, stored)
    return None


def _made(
    description: dict, columns: Columns, classes: list[str], root: Path, source: str, stored: tuple[Path, str]
) -> ImageIndex:
    folders, passed_over = description["folders"], description["passed_over"]
    places = description.get("archive"), description.get("shards")
    return ImageIndex(columns, folders, classes, root, source, stored, passed_over, *places)


def _build(split: Split, path: Path) -> ImageIndex:
    """Reads the list or the folders into a new index. OSError: it cannot be written."""
    began = time.time_ns()
    folders: dict[str, int] = {}
    times: dict[str, int] = {}
    passed_over: Counter[str] = Counter()
    key = split.key()

    def describe() -> tuple[dict, dict]:
        settled = all(abs(began - change) > _CLOCK_STEP_NS for change in times.values())
        content = {"folders": list(folders), "classes": split.classes}
        if split.archive is not None:
            content["archive"] = split.archive
        if split.shards is not None:
            content["shards"] = split.shards
        return content, {"key": key, "times": times, "passed_over": passed_over, "settled": settled}

    remove_unfinished(path)
    found = stored_indices(path)
    temporary = temporary_name(path)
    logger.info("reading %s; its index is kept in %s", split.source, path.parent)
    temporary.mkdir(parents=True)
    try:
        identity = write_index(temporary, split.read(folders, times, passed_over), describe)
        for replaced in found:
            discard(replaced)
        try:
            temporary.rename(index_folder(path, identity))
        except OSError:
            if not index_folder(path, identity).exists():  # else another process has just put an equal one there
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    path.unlink(missing_ok=True)  # an earlier version kept the index in one file of this name
    return _open(path, identity, Path(split.image_root), split.source)
