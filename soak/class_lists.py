"""Class folders and Places365's official lists as accidents leave them, through the check and the index."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from classification.index import class_folders
from classification.index.index import open_index
from engine.errors import UserError
from places365.categories import PLACES365
from places365.check_root import check_root, format_report
from places365.layout import find_split
from soak.folders import digest
from soak.mutation import mutate_bytes
from soak.pool import Outcome, Trial, last_traceback

CLASSES = (0, 1, 48, 90, 141, 364)  # some with folders in folders
NAMES = (
    b"caf\xc3\xa9", b"cafe\xcc\x81", b"caf\xe9", b"\xe6\xa4\x85\xe5\xad\x90", b"a b", b" a", b"a ", b"a\nb", b"-a",
    b".hidden", b"__MACOSX", b"A", b"x" * 255, b"val", b"train", b"0", b"a'b", b"*", b"\xff", b"1e5", b"None",
)  # fmt: skip


def prepare_class_lists(folder: Path) -> Trial:
    """One small picture, and the trials of folders and lists of it."""
    _, encoded = cv2.imencode(".jpg", np.full((16, 16, 3), 90, np.uint8))
    picture = encoded.tobytes()

    def trial(seed: int, place: Path) -> Outcome:
        random = np.random.default_rng(seed)
        root = place / "data"
        kind, splits, find = (_lists if random.integers(2) else _folders)(root, picture, random)
        before = digest(root)
        try:
            result = _use(root, splits, find, place / "cache")
        except Exception:
            return Outcome(kind, "traceback", last_traceback())
        fault = "" if digest(root) == before else "the input was changed"
        shutil.rmtree(place)
        return Outcome(kind, result, fault)

    return trial


def _use(root: Path, splits: tuple[str, ...], find: Callable, cache: Path) -> str:
    results = []
    try:
        report = check_root(root, deep=True, unlisted=True, cache=cache, threads=1)
        format_report(report).encode(errors="surrogateescape")
        results.append("read")
    except UserError as error:
        results.append("refused")
        assert str(error).strip()
    for split in splits:
        try:
            index = open_index(find(root, split), cache)
        except UserError as error:
            results.append("refused")
            assert str(error).strip()
            continue
        results.append("read")
        for position in range(len(index)):
            assert -1 <= index.label(position) < len(index.classes)
            index.path(position)
    return "refused" if "read" not in results else "read" if "refused" not in results else "partly read"


def _lists(root: Path, picture: bytes, random: np.random.Generator):
    """An official list with an accident in it, or with fields exchanged, and the images that it names."""
    labelled = bool(random.integers(4))
    name, images = [("train-standard", "data_256"), ("val", "val_256")][int(random.integers(2))]
    file = {"train-standard": "places365_train_standard.txt", "val": "places365_val.txt"}[name]
    lines = []
    for number in range(12):
        label = CLASSES[number % len(CLASSES)]
        path = f"{PLACES365[label]}/{number:08}.jpg" if name != "val" else f"/Places365_val_{number:08}.jpg"
        if number != 5:
            place = root / images / path.strip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(picture if number != 7 else picture[:99])
        lines.append([path, str(label)] if labelled else [path])
    change = int(random.integers(6))
    one, other = (int(value) for value in random.choice(len(lines), 2, replace=False))
    field = int(random.integers(len(lines[one])))
    if change == 0:
        lines[one][field], lines[other][field] = lines[other][field], lines[one][field]
    elif change == 1:
        values = ["", "-1", "365", "1.0", "1e2", "x", "９", "9" * 5000, "../../x.jpg", "a\tb", "\x00", "\ud8ff", "null"]
        lines[one][field] = str(random.choice(values))
    elif change == 2:
        lines[one].append(str(random.choice(["0", "x", ""])))
    elif change == 3:
        lines.insert(one, list(lines[other]))
    separator, end = str(random.choice([" ", " ", "\t", ",", "  "])), str(random.choice(["\n", "\n", "\r\n", "\r"]))
    text = end.join(separator.join(line) for line in lines) + end
    encoding = str(random.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    data = text.encode(encoding, "surrogatepass")
    (root / file).write_bytes(mutate_bytes(data, random)[0] if change > 3 else data)
    return "official list", (name,), find_split


def _folders(root: Path, picture: bytes, random: np.random.Generator):
    """Class folders with names that people and programs give, and with things in them that are no images."""
    chosen = [NAMES[int(index)] for index in random.choice(len(NAMES), 3, replace=False)] + [b"b", b"c"]
    for split in ("train", "val"):
        base = os.fsencode(root / split)
        os.makedirs(base)
        for name in chosen:
            what = int(random.integers(12))
            path = os.path.join(base, name)
            if what == 0:
                continue
            if what == 1:
                _write(path, picture)  # a file where a class should be
                continue
            if what == 2:
                os.symlink(b".." if random.integers(2) else b"nowhere", path)
                continue
            if what == 3:
                path = os.path.join(path, NAMES[int(random.integers(len(NAMES)))])
            os.makedirs(path, exist_ok=True)
            for number in range(int(random.integers(4))):
                inner = NAMES[int(random.integers(len(NAMES)))][:200] if random.integers(3) == 0 else b"%d" % number
                suffix = [b".jpg", b".JPG", b".jpeg", b".png", b"", b".txt", b".jfif"][int(random.integers(7))]
                data = picture if random.integers(3) else mutate_bytes(picture, random)[0]
                _write(os.path.join(path, inner + suffix), data)
    return "class folders", ("train", "val"), class_folders.find_split


def _write(path: bytes, data: bytes) -> None:
    if not os.path.lexists(path):
        with open(path, "wb") as file:
            file.write(data)
