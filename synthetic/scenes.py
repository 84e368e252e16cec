"""The demo's scene set: drawn pictures of eight Places365 classes in class folders, made from a seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from engine.errors import UserError
from synthetic.drawn_set import make_drawn_set
from synthetic.indoor_scenes import draw_bedroom, draw_bookstore, draw_corridor, draw_staircase
from synthetic.outdoor_scenes import draw_coast, draw_mountain, draw_skyscraper, draw_street
from synthetic.scene_canvas import FINE, Canvas, develop, obstruct

DRAWINGS = {
    "bedroom": draw_bedroom,
    "bookstore": draw_bookstore,
    "coast": draw_coast,
    "corridor": draw_corridor,
    "mountain": draw_mountain,
    "skyscraper": draw_skyscraper,
    "staircase": draw_staircase,
    "street": draw_street,
}
CLASSES = tuple(DRAWINGS)  # sorted, as folders are

GENERATOR = "se-backbones-scenes/1"
MARKER = "scenes.json"
SPLITS = ("train", "val")
MIN_SIZE = 64


@dataclass(frozen=True)
class ScenesSet:
    """Where the set lies; `generated` is False where a complete one was found and kept."""

    root: Path
    generated: bool


def generate_scenes(
    root: str | os.PathLike, *, train: int = 200, val: int = 40, size: int = 128, seed: int = 1
) -> ScenesSet:
    """Makes the set in `root` as class folders, train/<class>/000001.jpg, or keeps a complete one that is there.

    The classes are scenes of Places365, four under the sky and four under a roof. All draw their colours, their
    light and what stands in the way from the same source, and each may show a little of another (a room has a window
    on a street, a coast has mountains behind it): what tells them is how the space is built and what is in it.

    A scene depends on (seed, split, class, position) and the size, so a larger set begins with the smaller one's
    scenes, and train and val share none. It has the same pixels with the same OpenCV; another release may smooth an
    edge otherwise.

    Args:
        root: a folder of its own; made if missing. See `synthetic.drawn_set` for when a set is kept.
        train, val: pictures of each class, at least 1.
        size: width and height in pixels, at least 64.
        seed: 0 to 2**32 - 1.

    Raises:
        UserError: `root` holds something else, a value is out of range, or the disk cannot be written to.
    """
    if train < 1 or val < 1 or size < MIN_SIZE or not 0 <= seed < 2**32:
        raise UserError(
            f"scenes: train {train} and val {val} must be at least 1, size {size} at least {MIN_SIZE}, "
            f"seed {seed} in 0..2^32-1"
        )
    settings = {
        "generator": GENERATOR,
        "train": train,
        "val": val,
        "size": size,
        "seed": seed,
        "classes": list(CLASSES),
    }
    pictures = [
        (split, name, index)
        for split, count in zip(SPLITS, (train, val), strict=True)
        for name in CLASSES
        for index in range(count)
    ]
    names = [f"{split}/{name}/{index + 1:06d}.jpg" for split, name, index in pictures]

    def files() -> Iterator[tuple[str, bytes]]:
        for path, (split, name, index) in zip(names, pictures, strict=True):
            yield path, encode_jpeg(draw_scene(name, split, index, size, seed))

    drawn = make_drawn_set(root, settings, names, files, marker=MARKER, replaced=r"(train|val)/[a-z_]+/\d{6,}\.jpg")
    return ScenesSet(Path(root), generated=drawn)


def draw_scene(name: str, split: str, index: int, size: int = 128, seed: int = 1) -> np.ndarray:
    """One scene of a class of `CLASSES`, (size, size, 3) RGB uint8.

    Args:
        split: "train" or "val".
        index: its position among the class's scenes in that split, from 0.
    """
    random = np.random.RandomState([seed, SPLITS.index(split), CLASSES.index(name), index, size])
    canvas = Canvas(FINE * size)
    DRAWINGS[name](random, canvas)
    obstruct(random, canvas)
    return develop(random, canvas, size)


def encode_jpeg(image: np.ndarray) -> bytes:
    """(H, W, 3) RGB uint8 as a JPEG file of quality 92."""
    _, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return content.tobytes()
