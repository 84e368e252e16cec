"""The part of an image in which a detector is wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from engine.images.reading import read_image
from engine.report.mistakes import SIDE, Mistake

PREDICTED, TRUTH = (214, 39, 40), (44, 160, 44)  # red and green; the truth's line is the wider one, below the other
LEAST = 96  # pixels of the image on a side
AROUND = 0.6  # of the boxes' longer side, on each side


def draw_mistake(mistake: Mistake, images: Path, max_pixels: int = 0) -> np.ndarray:
    """What was predicted in red, what is there in green, with what is around them: (H, W, 3) RGB uint8.

    Args:
        mistake: with the details "box" and "truth_box", either of which may be None.
        images: the folder of the set's images.
        max_pixels: that an image may have; 0: any.

    Raises:
        UnreadableImage: it cannot be read.
    """
    image = read_image(images / mistake.file, max_pixels)
    boxes = {
        colour: np.array([x, y, x + width, y + height])
        for colour, box in ((TRUTH, mistake.details["truth_box"]), (PREDICTED, mistake.details["box"]))
        if box is not None
        for x, y, width, height in [box]
    }
    left, top, right, bottom = _window(list(boxes.values()), image.shape)
    part = image[top:bottom, left:right]
    factor = SIDE / max(part.shape[:2])
    size = tuple(max(round(side * factor), 1) for side in part.shape[1::-1])
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    for colour, box in boxes.items():
        corners = np.clip((box - [left, top, left, top]) * factor, -2 * SIDE, 2 * SIDE).round().astype(int)
        cv2.rectangle(part, corners[:2].tolist(), corners[2:].tolist(), colour, 6 if colour == TRUTH else 2)
    return part


def _window(boxes: list[np.ndarray], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part that is shown: a pixel at least, and nothing outside of the image."""
    height, width = shape[:2]
    low, high = np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]
    middle = np.clip((low + high) / 2, 0, [width, height])
    half = max((high - low).max() * (0.5 + AROUND), LEAST / 2)
    left, top = np.floor(np.clip(middle - half, 0, [width - 1, height - 1])).astype(int).tolist()
    right, bottom = np.ceil(np.clip(middle + half, [left + 1, top + 1], [width, height])).astype(int).tolist()
    return left, top, right, bottom
