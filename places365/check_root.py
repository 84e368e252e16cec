"""Whether a Places365 folder is whole: what is there, what is missing, what cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from classification.index.class_folders import shortened
from classification.index.folders import walk_images
from classification.index.index import ImageIndex, open_index
from classification.index.remarks import images_by_class, mostly_passed_over, remarks
from classification.index.split import Split, SplitNotFound, UnsortedImages
from engine.errors import UserError
from engine.images.reading import UnreadableImage
from engine.names import printable
from engine.predict.image_files import describe_passed_over, perhaps_pictures
from places365.layout import find_split
from places365.nested_folders import nesting

MAX_CLASSES_SHOWN = 5
MAX_FILES_SHOWN = 5
_READ_AT_ONCE = 4096  # files handed to the threads at a time

# Images of the official splits (README of github.com/zhoubolei/places_devkit). Its two figures for the challenge's
# training set, 8,026,628 and 8,097,967, contradict each other, so that one is not compared.
OFFICIAL_IMAGES = {"train-standard": 1_803_460, "val": 36_500, "test": 328_500}

#: What is wrong with a file, in the order of the report. All are problems, but files in no list.
FILE_KINDS = {
    "twice": "listed more than once",
    "missing": "in the list or index, but not on disk",
    "empty": "of 0 bytes",
    "unreadable": "that cannot be decoded",
    "unlisted": "in no list",
}


def check_root(
    root: str | os.PathLike,
    images: str = "auto",
    *,
    deep: bool = False,
    unlisted: bool = False,
    cache: str | os.PathLike | None = None,
    threads: int = 16,
) -> dict:
    """Checks every split that is found below ``root``.

    Each image folder is listed once, by several threads, and compared with the list: that takes one request a folder
    and one a file, whatever the order of the list.

    An interruption (KeyboardInterrupt) while files are checked ends the check, and the report is of what it had found.

    Args:
        images: as for ``layout.find_split``.
        deep: decode every file, too (hours for the training sets).
        unlisted: also look for image files that are in none of the lists of their image folder.
        cache: as for ``index.open_index``.
        threads: that list folders and decode files.

    Returns:
        what can be written as JSON: "root", "deep"; "complete": false after an interruption; "files" and "read": how
        many there are, and how many of them were checked; "splits": {name: {"source", "image_root", "images", "read",
        "classes", "fewest" and "most": [[class, images], …], "without_images": [class, …], "passed_over": {kind: files
        in class folders that are not taken}, "mostly_passed_over", "twice", "missing", "empty", "unreadable",
        "unlisted": [{"file", "message"?}, …], "warnings": […], "notes": […]}}, a split that could not be indexed has
        "error" alone; "not_found": {split: why}; "problems": their number.

    Raises:
        UserError: no split at all was found.
    """
    found, report, not_found = _find_splits(root, images)
    if not found and not report:
        raise UserError(f"{Path(root)} has no split of Places365 and no class folders:\n{not_found['train']}")
    indices: dict[str, ImageIndex] = {}
    for split in found:
        try:
            indices[split.name] = open_index(split, cache)
        except UserError as error:
            report[split.name] = {"error": str(error)}
    report |= {split.name: _counts(split, indices[split.name]) for split in found if split.name in indices}
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        try:
            for name, index in indices.items():
                _check_files(report[name], name, index, deep, pool)
            for name, files in _unlisted(indices) if unlisted else ():
                report[name]["unlisted"] = files
            complete = True
        except KeyboardInterrupt:
            complete = False
            pool.shutdown(wait=False, cancel_futures=True)
    problems = sum(_problems(name, part) for name, part in report.items())
    order = [name for name in ("train", "train-standard", "train-challenge", "val", "test") if name in report]
    return {
        "root": str(root),
        "deep": deep,
        "complete": complete,
        "files": sum(report[name]["images"] for name in indices),
        "read": sum(report[name]["read"] for name in indices),
        "splits": {name: report[name] for name in order},
        "not_found": {name: reason for name, reason in not_found.items() if name not in report},
        "problems": problems,
    }


def format_report(report: dict) -> str:
    """A report as lines to print: counts, then the first few files of each kind."""
    lines = []
    for name, part in report["splits"].items():
        if "error" in part:
            lines += [f"{name}: {part['error']}", ""]
            continue
        lines.append(f"{name}: {part['images']:,} images of {part['classes']} classes")
        if part["read"] < part["images"]:
            lines.append(f"  {part['read']:,} of {part['images']:,} files were read")
        lines.append(f"  {printable(part['source'])}, images in {printable(part['image_root'])}")
        for which in ("fewest", "most"):
            if part[which]:
                lines.append(f"  {which} images: " + ", ".join(f"{label} {count:,}" for label, count in part[which]))
        if part["passed_over"] and not perhaps_pictures(part["passed_over"]):  # else a warning says so
            lines.append(f"  files passed over: {describe_passed_over(part['passed_over'])}")
        lines += [f"  warning: {warning}" for warning in part["warnings"]]
        lines += [f"  note: {note}" for note in part["notes"]]
        for kind, meaning in FILE_KINDS.items():
            if files := part[kind]:
                named = [f"{one['file']}: {one['message']}" if "message" in one else one["file"] for one in files]
                lines.append(f"  {len(files):,} {kind} ({meaning}): {shortened(named, MAX_FILES_SHOWN)}")
        lines.append("")
    if report["not_found"]:
        lines += [f"not there: {', '.join(report['not_found'])}", ""]
    problems = f"{report['problems']:,} problem{'' if report['problems'] == 1 else 's'}"
    if not report["complete"]:
        read = f"{report['read']:,} of {report['files']:,} files"
        lines.append(f"incomplete: interrupted after {read}; {problems} so far")
    else:
        how = "every file was decoded" if report["deep"] else "no file was decoded (--deep does)"
        lines.append(f"{problems}; {how}")
    return "\n".join(lines)


def _find_splits(root: str | os.PathLike, images: str) -> tuple[list[Split], dict[str, dict], dict[str, str]]:
    """The splits that are there, those that are there and wrong, and why the others were not found."""
    found, wrong, absent = [], {}, {}
    for name in ("train-standard", "train-challenge", "train", "val", "test"):
        if name == "train" and any(split.name.startswith("train") for split in found):
            continue  # it would be one of the two again
        try:
            found.append(find_split(root, name, images))
        except SplitNotFound as error:
            absent[name] = str(error)
        except UserError as error:
            if name == "test" and isinstance(error, UnsortedImages):  # as most sets have it: nobody trains on them
                absent[name] = str(error)
            elif name != "train" or not any(part["error"] == str(error) for part in wrong.values()):
                wrong[name] = {"error": str(error)}
    return found, wrong, absent


def _counts(split: Split, index: ImageIndex) -> dict:
    """Images of a split and of its classes, with nothing yet of what ``_check_files`` finds."""
    counts = images_by_class(index)
    if not counts.any():
        counts = counts[:0]  # no labels
    order = np.argsort(counts, kind="stable")
    with_images = [int(label) for label in order if counts[label]]
    notes = [note] if (note := nesting(split)) else []
    expected = OFFICIAL_IMAGES.get(split.name)
    if expected not in (None, len(index)) and index.source.endswith(".txt"):
        notes.append(f"the official split has {expected:,} images, this list {len(index):,}")
    return {
        "source": index.source,
        "image_root": str(index.root),
        "images": len(index),
        "read": 0,
        "classes": len(index.classes),
        "fewest": [[index.classes[label], int(counts[label])] for label in with_images[:MAX_CLASSES_SHOWN]],
        "most": [[index.classes[label], int(counts[label])] for label in with_images[::-1][:MAX_CLASSES_SHOWN]],
        "without_images": [name for name, count in zip(index.classes, counts, strict=False) if not count],
        "passed_over": index.passed_over,
        "mostly_passed_over": mostly_passed_over(index),
        "warnings": remarks(index, split.name.startswith("train")),
        "notes": notes,
        **{kind: [] for kind in FILE_KINDS},
    }


def _check_files(part: dict, name: str, index: ImageIndex, deep: bool, pool: ThreadPoolExecutor) -> None:
    """Puts into ``part`` the files of one split that are listed twice, missing, empty or, with ``deep``, unreadable, in
    the order of the index, and how many were "read"; when interrupted, those up to there."""
    looked = 0
    state = np.zeros(len(index), np.uint8)  # 1 missing, 2 empty, 3 listed before
    with tqdm(total=len(index), desc=f"{name}: looking", unit="file", leave=False, disable=None) as progress:
        try:
            jobs = [pool.submit(_look, index, folder, members, state) for folder, members in _by_folder(index)]
            for job in as_completed(jobs):
                looked += job.result()
                progress.update(job.result())
        finally:
            part["twice"] = [{"file": index.name(int(i))} for i in np.flatnonzero(state == 3)]
            part["missing"] = [{"file": index.name(int(i))} for i in np.flatnonzero(state == 1)]
            part["empty"] = [{"file": index.name(int(i))} for i in np.flatnonzero(state == 2)]
            part["read"] = len(part["missing"]) + len(part["empty"]) if deep else looked
    if deep:
        positions = np.flatnonzero(state == 0)
        with tqdm(total=len(positions), desc=f"{name}: decoding", unit="file", leave=False, disable=None) as progress:
            for position, message in _in_order(pool, lambda i: _decode(index, i), map(int, positions)):
                if message is not None:
                    part["unreadable"].append({"file": index.name(position), "message": message})
                part["read"] += 1
                progress.update()


def _by_folder(index: ImageIndex) -> Iterator[tuple[str, np.ndarray]]:
    """(folder, positions of its images) for each folder of an index."""
    order = np.argsort(index.folder_numbers, kind="stable")
    ends = np.cumsum(np.bincount(index.folder_numbers, minlength=len(index.folders)))
    yield from zip(index.folders, np.split(order, ends[:-1]), strict=True)


def _look(index: ImageIndex, folder: str, members: np.ndarray, state: np.ndarray) -> int:
    """Notes in ``state`` which of a folder's files are missing, empty or listed before. Returns how many it looked
    for."""
    sizes = {}
    if not index.of_files:  # those of an archive were there when it was listed
        state[members[index.sizes[members] == 0]] = 2
        return len(members)
    try:
        with os.scandir(index.root / folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
                except OSError:  # gone, or a link to nowhere
                    continue
    except OSError:
        pass  # all of its files are missing
    seen = set()
    for position in members:
        name = index.name(position).rpartition("/")[2]
        size = sizes.get(name)
        if name in seen:
            state[position] = 3
        elif not size:
            state[position] = 1 if size is None else 2
        seen.add(name)
    return len(members)


def _decode(index: ImageIndex, position: int) -> str | None:
    """Why an image cannot be read; None where it can."""
    try:
        index.read(position)
    except UnreadableImage as error:
        return str(error)
    return None


def _in_order(pool: ThreadPoolExecutor, function: Callable, arguments: Iterator) -> Iterator[tuple]:
    """(argument, result) as the pool gives them, without queueing millions of calls."""
    while part := list(islice(arguments, _READ_AT_ONCE)):
        yield from zip(part, pool.map(function, part), strict=True)


def _unlisted(indices: dict[str, ImageIndex]) -> Iterator[tuple[str, list[dict]]]:
    """(first split of an image folder, image files below the folder that are in none of its lists), for each folder.

    Class folders have no such files: what is in them is the list.
    """
    by_root: dict[Path, list[str]] = {}
    for name, index in indices.items():
        if index.source != str(index.root):
            by_root.setdefault(index.root, []).append(name)
    for root, names in by_root.items():
        listed: dict[str, list[tuple[ImageIndex, np.ndarray]]] = {}
        for name in names:
            for folder, members in _by_folder(indices[name]):
                listed.setdefault(folder, []).append((indices[name], members))
        files = []
        for folder, _, present in tqdm(
            walk_images(root, "."), desc=f"{root.name}: files in no list", unit="folder", leave=False, disable=None
        ):
            folder = folder.removeprefix(".").removeprefix("/")
            known = {
                index.name(position).rpartition("/")[2]
                for index, members in listed.get(folder, [])
                for position in members
            }
            unknown = [os.fsdecode(file) for file in present if os.fsdecode(file) not in known]
            files += [{"file": f"{folder}/{file}" if folder else file} for file in unknown]
        yield names[0], files


def _problems(name: str, part: dict) -> int:
    """How many: each file, each class that could not be learnt (in other splits a class may have no images), one class
    alone, and more files passed over than taken."""
    if "error" in part:
        return 1
    files = sum(len(part[kind]) for kind in FILE_KINDS if kind != "unlisted")
    classes = len(part["without_images"]) + (part["classes"] == 1) if name.startswith("train") else 0
    return files + classes + part["mostly_passed_over"]
