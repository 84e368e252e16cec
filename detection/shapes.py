"""The demo's detection set: drawn scenes of five shapes in COCO format, the same bytes on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detection.shape_scene import OBJECTS, RADIUS, VISIBLE, Shape, draw_scene, outlines
from engine.errors import UserError

# Ids with gaps, as COCO's have, so that whoever mistakes ids for indices finds out here.
CATEGORIES = {"circle": 1, "square": 2, "triangle": 4, "star": 7, "cross": 9}

GENERATOR = "se-backbones-shapes/1"
MARKER = "shapes.json"
SPLITS = ("train", "val")
SMALLEST = 64
LARGEST_BLOCK = 65535


@dataclass(frozen=True)
class ShapesSet:
    """Where the set lies; `generated` is False where a complete one was found and kept."""

    root: Path
    generated: bool

    @property
    def train_json(self) -> Path:
        return self.root / "annotations" / "instances_train.json"

    @property
    def val_json(self) -> Path:
        return self.root / "annotations" / "instances_val.json"

    @property
    def train_images(self) -> Path:
        return self.root / "train"

    @property
    def val_images(self) -> Path:
        return self.root / "val"


def generate_shapes(
    root: str | os.PathLike, *, train: int = 600, val: int = 100, size: int = 160, seed: int = 1
) -> ShapesSet:
    """Makes the set in `root`, or keeps it if a complete one of the same arguments is there.

    A scene depends on (seed, split, its position) and the size, so a larger set begins with the smaller one's
    scenes. Image ids are odd in train and even in val; a file is its image's id in six digits. Masks and
    boxes are of the pixels in sight: of a shape partly behind another one, only those, of which at least 60
    percent are left. The box is the smallest that holds the mask, in whole pixels; the outline runs along
    pixel edges and gives the mask back exactly.

    The set is complete once its marker holds the digest of all its files, which is compared when it is found
    again; an interrupted or damaged set is made anew. Some 77 kB an image of 160 px: the PNG files are not
    compressed, because compressed bytes change with the library's version.

    Args:
        root: a folder of its own; made if missing.
        train, val: images of each split, at least 1.
        size: width and height in pixels, at least 64.
        seed: 0 to 2**32 - 1.

    Raises:
        UserError: `root` holds something else, a value is out of range, or the disk cannot be written to.
    """
    root = Path(root)
    if train < 1 or val < 1 or size < SMALLEST or not 0 <= seed < 2**32:
        raise UserError(
            f"shapes: train {train} and val {val} must be at least 1, size {size} at least {SMALLEST}, "
            f"seed {seed} in 0..2^32-1"
        )
    settings = {"generator": GENERATOR, "train": train, "val": val, "size": size, "seed": seed}
    settings["scene"] = {"radius": list(RADIUS), "objects": list(OBJECTS), "visible": VISIBLE}
    counts = {"train": train, "val": val}
    try:
        if _is_complete(root, settings):
            return ShapesSet(root, generated=False)
        _make_room(root, {split: {_file_name(split, index) for index in range(n)} for split, n in counts.items()})
        # From here on the folder is ours, which this marker says; without a digest it says that it is not
        # complete.
        _write(root / MARKER, _json(settings))
        digest = hashlib.sha256()
        with tqdm(total=train + val, desc=f"drawing shapes in {root}", unit=" images", disable=None) as bar:
            for path, content in _files(counts, size, seed):
                _write(root / path, content)
                digest.update(content)
                bar.update(path.endswith(".png"))
        _write(root / MARKER, _json({**settings, "sha256": digest.hexdigest()}))
    except OSError as error:
        raise UserError(f"shapes: cannot write {error.filename or root}: {error.strerror or error}") from None
    return ShapesSet(root, generated=True)


def encode_png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a PNG file; its data is stored, not compressed: the same bytes everywhere."""
    height, width, _ = image.shape
    lines = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # a line begins with its filter, 0: none
    lines[:, 1:] = image.reshape(height, -1)
    data = lines.tobytes()
    stream = [b"\x78\x01"]
    for start in range(0, len(data), LARGEST_BLOCK):
        block = data[start : start + LARGEST_BLOCK]
        last = start + LARGEST_BLOCK >= len(data)
        stream.append(struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block)
    stream.append(struct.pack(">I", zlib.adler32(data)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b"".join(stream)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _files(counts: dict[str, int], size: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(path inside the set, content) of every file, in order."""
    for split, count in counts.items():
        images, annotations = [], []
        for index in range(count):
            # Each scene has a generator of its own, so that it does not depend on how many come before it.
            position = np.array([seed, SPLITS.index(split), index, size], dtype=np.uint32)
            picture, shapes = draw_scene(np.random.RandomState(position), size)
            identity, name = _image_id(split, index), _file_name(split, index)
            images.append({"id": identity, "file_name": name, "width": size, "height": size, "license": 1})
            annotations += [_annotation(shape, identity) for shape in shapes]
            yield f"{split}/{name}", encode_png(picture)
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
        content = {
            "info": {"description": f"drawn shapes, {split}", "version": GENERATOR, "seed": seed},
            "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": identity, "name": name, "supercategory": "shape"} for name, identity in CATEGORIES.items()
            ],
        }
        yield f"annotations/instances_{split}.json", _json(content)


def _image_id(split: str, index: int) -> int:
    return 2 * index + 1 + SPLITS.index(split)


def _file_name(split: str, index: int) -> str:
    return f"{_image_id(split, index):06d}.png"


def _annotation(shape: Shape, image_id: int) -> dict:
    rows, columns = np.flatnonzero(shape.mask.any(1)), np.flatnonzero(shape.mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "id": 0,
        "image_id": image_id,
        "category_id": CATEGORIES[shape.name],
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(shape.mask.sum()),
        "iscrowd": 0,
        "segmentation": outlines(shape.mask),
    }


def _is_complete(root: Path, settings: dict) -> bool:
    """Whether `root` holds exactly this set, every byte of it."""
    marker = _read_marker(root)
    if marker is None or "sha256" not in marker or {**settings, "sha256": marker["sha256"]} != marker:
        return False
    digest = hashlib.sha256()
    for split in SPLITS:
        paths = [root / split / _file_name(split, index) for index in range(settings[split])]
        for path in [*paths, root / "annotations" / f"instances_{split}.json"]:
            try:
                digest.update(path.read_bytes())
            except OSError:
                return False
    return digest.hexdigest() == marker["sha256"]


def _read_marker(root: Path) -> dict | None:
    """The marker of a set of ours, complete or not; None where there is none."""
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(marker, dict) and str(marker.get("generator", "")).startswith("se-backbones-shapes/")
    return marker if ours else None


def _make_room(root: Path, names: dict[str, set[str]]) -> None:
    """Sees that `root` is new, empty or ours, and removes our pictures that the new set, `names`, lacks.

    Those that it has are left to be replaced one by one: another process may have just drawn the same set.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"shapes: {root} is a file; name a folder")
    content = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if content and _read_marker(root) is None:
        raise UserError(
            f"shapes: {root} holds files that were not drawn here ({', '.join(sorted(content)[:3])}, ...) "
            "and is left alone; name another folder, or an empty one"
        )
    for split, wanted in names.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        for path in (root / split).iterdir():
            if re.fullmatch(r"\d{6,}\.png", path.name) and path.name not in wanted:
                path.unlink(missing_ok=True)
    (root / "annotations").mkdir(exist_ok=True)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all for other readers. Not flushed: the digest finds what a power cut lost."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _json(value: dict) -> bytes:
    return (json.dumps(value, separators=(",", ":")) + "\n").encode("ascii")
