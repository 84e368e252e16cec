"""What Pillow reads of picture files: how they are opened, turned upright and made RGB."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image

MAX_PIXELS = 178_956_970  # width times height; where Pillow itself suspects a decompression bomb: twice 1 GiB / 4 / 3

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF 6.0
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa")
_BEGINNINGS = (  # of files that are something else, under a picture's name
    (b"<", ": a web page, or another text with tags"),
    (b"version https://git-lfs", ": a Git LFS pointer; git lfs pull gets the picture"),
)


class _NoLimit:
    """Pillow's own limit, which is one for the whole process, is off as long as any thread is in here."""

    def __init__(self):
        self._lock, self._inside, self._limit = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._limit


_no_limit = _NoLimit()


@contextmanager
def opened(source: str | os.PathLike | BinaryIO, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """A picture file whose header is read and whose pixels are not.

    Args:
        max_pixels: width times height that are allowed; 0: any.

    Raises:
        ValueError: there are more pixels, or the values have no known range (see ``check_range``).
        Exception: almost any other, as Pillow's readers do on damaged files.
    """
    with _no_limit:
        image = Image.open(source)
    with image:
        check_size(*image.size, max_pixels)
        check_range(image)
        yield image


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ValueError for no pixels, and for more than ``max_pixels``; 0 allows any number."""
    if width < 1 or height < 1:
        raise ValueError(f"{width} x {height} are no pixels")
    if 0 < max_pixels < width * height:
        raise ValueError(
            f"{width} x {height} are {width * height:,} pixels, and INPUT.MAX_PIXELS allows {max_pixels:,}: a larger "
            "number there, or 0 for any (predicting: --max-pixels), lets it in"
        )


def check_range(image: Image.Image) -> None:
    """Raises ValueError where black and white cannot be told: 32-bit and signed integers, and floats."""
    if image.mode == "F":
        raise ValueError("its values are 32-bit floats of unknown range; save it with 8 or 16 bits")
    # As "I" come 16-bit PNG and PNM files too, with Pillow's older releases, in their full range.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("its values are 32-bit or signed integers of unknown range; save it with 8 or 16 bits")


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none, or none that makes sense.

    Call it once the pixels are loaded: a PNG is decoded to look for it, and what is damaged in its pixels would pass
    for damaged metadata, which may be as they like.
    """
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
        return found if found in _UPRIGHT else 1
    except Exception:  # metadata may be damaged in any way, and the pixels whole
        return 1


def upright_rgb(image: Image.Image) -> np.ndarray:
    """An opened picture's pixels, (H, W, 3) RGB uint8, upright.

    - 16 bits a channel: the upper 8; 12 bits likewise.
    - Transparency is laid on white, as viewers show it.
    - Grey, palette, CMYK, YCbCr and LAB are converted as Pillow does, without colour profiles.
    - Of several pictures in a file the first is taken.

    Raises:
        Exception: almost any, on damaged files.
    """
    image.load()
    turn = _UPRIGHT.get(orientation(image))
    rgb = _rgb(image)
    return np.array(rgb if turn is None else rgb.transpose(turn))


def reason(source: str | os.PathLike | bytes | bytearray, error: Exception) -> str:
    """Why a picture could not be read, in words for people.

    Args:
        source: the file's path, or its content where it is in memory alone.
    """
    try:
        beginning, size = _beginning(source)
    except OSError as unreadable:
        return unreadable.strerror or str(unreadable)
    except ValueError:  # a zero byte, or half of a surrogate pair
        return "a name that no file can have"
    beginning = beginning.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not beginning and not size:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        instead = next((words for start, words in _BEGINNINGS if beginning.startswith(start)), "")
        return f"not an image in a format that can be read{instead}"
    return str(error) or type(error).__name__


def _beginning(source: str | os.PathLike | bytes | bytearray) -> tuple[bytes, int]:
    """The first bytes, and the number of all of them."""
    if isinstance(source, bytes | bytearray):
        return bytes(source[:64]), len(source)
    with open(source, "rb") as file:
        return file.read(64), os.fstat(file.fileno()).st_size


def _rgb(image: Image.Image) -> Image.Image:
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        grey = np.array(_eight_bits(image))
        if isinstance(transparent, int):  # of a 16-bit grey PNG: the one value that is not shown
            grey[np.asarray(image) == transparent] = 255
        return Image.fromarray(grey).convert("RGB")
    if isinstance(transparent, tuple) and max(transparent) > 255:  # of a 16-bit PNG, whose pixels have 8 bits by now
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in _WITH_ALPHA or transparent is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """(H, W) uint8. Pillow's own conversion cuts off at 255, which turns 16-bit pictures white."""
    values, bits = np.asarray(image).astype(np.int64), 16
    if image.format == "TIFF":
        bits = image.tag_v2.get(_TIFF_BITS, (16,))[0]
        if image.tag_v2.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds for 8 bits alone
            values = 2**bits - 1 - values
    return (values >> (bits - 8)).clip(0, 255).astype(np.uint8)
