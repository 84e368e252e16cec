"""The demo's detection set: drawn scenes of five shapes in COCO format, the same bytes on every machine."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import UserError
from synthetic.drawn_set import compact_json, make_drawn_set
from synthetic.shape_scene import MIN_VISIBLE, OBJECTS, RADIUS, Shape, draw_scene, outlines

# Ids with gaps, as COCO's have, so that whoever mistakes ids for indices finds out here.
CATEGORIES = {"circle": 1, "square": 2, "triangle": 4, "star": 7, "cross": 9}

GENERATOR = "se-backbones-shapes/1"
MARKER = "shapes.json"
SPLITS = ("train", "val")
MIN_SIZE = 64
MAX_BLOCK_BYTES = 65535


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
    if train < 1 or val < 1 or size < MIN_SIZE or not 0 <= seed < 2**32:
        raise UserError(
            f"shapes: train {train} and val {val} must be at least 1, size {size} at least {MIN_SIZE}, "
            f"seed {seed} in 0..2^32-1"
        )
    settings = {"generator": GENERATOR, "train": train, "val": val, "size": size, "seed": seed}
    settings["scene"] = {"radius": list(RADIUS), "objects": list(OBJECTS), "visible": MIN_VISIBLE}
    counts = {"train": train, "val": val}
    names = []
    for split, count in counts.items():
        names += [f"{split}/{_file_name(split, index)}" for index in range(count)]
        names.append(f"annotations/instances_{split}.json")
    drawn = make_drawn_set(
        root,
        settings,
        names,
        lambda: _files(counts, size, seed),
        marker=MARKER,
        replaced=r"(train|val)/\d{6,}\.png",
    )
    return ShapesSet(root, generated=drawn)


def encode_png(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a PNG file; its data is stored, not compressed: the same bytes everywhere."""
    height, width, _ = image.shape
    lines = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # a line begins with its filter, 0: none
    lines[:, 1:] = image.reshape(height, -1)
    data = lines.tobytes()
    stream = [b"\x78\x01"]
    for start in range(0, len(data), MAX_BLOCK_BYTES):
        block = data[start : start + MAX_BLOCK_BYTES]
        last = start + MAX_BLOCK_BYTES >= len(data)
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
        yield f"annotations/instances_{split}.json", compact_json(content)


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
