"""Letters on pictures, and the sizes at which they can be read."""

import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.fonts import DEFAULT_FONT, drawable
from engine.names import class_name

MIN_TEXT_SIZE, MAX_TEXT_SIZE = 10, 64  # pixels
MIN_SIDE = 360  # pixels; a smaller picture is enlarged, or names would be unreadable or hide it
MAX_LETTERS = 120  # of a name; what is longer says no more
MAX_SIDE = 4096  # to which it is enlarged: a line of a few pixels would become gigabytes


def checked_picture(image) -> np.ndarray:
    """`image` as a contiguous array. Raises ValueError if it is not (H, W, 3) uint8 with a pixel in it."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected a picture (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
    return np.ascontiguousarray(image)


def enlarged(image) -> tuple[np.ndarray, float]:
    """A picture, (H, W, 3) RGB uint8, in the size in which it is drawn on, and by what its sides were multiplied, 1 or
    more. Raises ValueError as `checked_picture`."""
    image = checked_picture(image)
    height, width = image.shape[:2]
    factor = max(min(MIN_SIDE / min(height, width), MAX_SIDE / max(height, width)), 1.0)
    if factor > 1:
        size = (round(width * factor), round(height * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return image, factor


def line_width(shape) -> int:
    """Width in pixels of the lines drawn on a picture of `shape` (H, W, ...)."""
    return max(1, round(min(shape[:2]) / 240))


def text_size(shape) -> int:
    """Height in pixels of the letters drawn on a picture of `shape` (H, W, ...)."""
    return int(np.clip(min(shape[:2]) / 30, MIN_TEXT_SIZE, MAX_TEXT_SIZE))


def shown_name(names, index: int) -> str:
    """The name of class `index` on one line, cut where it is very long; its number where it has none."""
    name = class_name(str(names[index]).strip()) if 0 <= index < len(names) else ""
    return (name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…") or str(index)


@functools.lru_cache(maxsize=4096)
def letters(words: str, size: int) -> np.ndarray:
    """Coverage 0..255 of the letters of `words`, `size` pixels high, padding included: (height, width) uint8. It draws
    any text, in a font that has its characters where one is installed; see `drawable`."""
    text, font = drawable(words)
    try:
        return _drawn(text, _font(font, size))
    except (OSError, ValueError, KeyError):  # the layout engine's: signs that it makes nothing of
        return _drawn(ascii(text)[1:-1], _font(DEFAULT_FONT, size))


def _drawn(words, font):
    pad = max(2, int(font.size) // 4)
    ascent, descent = font.getmetrics()
    sheet = Image.new("L", (int(font.getlength(words)) + 2 * pad + 1, ascent + descent + pad))
    ImageDraw.Draw(sheet).text((pad, pad // 2), words, fill=255, font=font)
    return np.asarray(sheet)


def with_heading(image, title: str) -> np.ndarray:
    """`image`, (H, W, 3) RGB uint8, under a white strip with `title` in it, cut off where it is too long."""
    size = int(np.clip(image.shape[1] / 32, 11, MAX_TEXT_SIZE))
    paper = 255 - letters(title, size)[:, : image.shape[1]]
    strip = np.full((paper.shape[0] + size // 2, image.shape[1], 3), 255, np.uint8)
    strip[size // 4 : size // 4 + paper.shape[0], : paper.shape[1]] = np.maximum(paper, 40)[:, :, None]
    return np.concatenate([strip, image])


@functools.lru_cache(maxsize=64)
def _font(path, size):
    # OpenCV's built-in letters would draw accents as question marks.
    return ImageFont.truetype(str(path), size)
