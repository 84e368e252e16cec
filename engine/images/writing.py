"""Pictures written to files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from se_backbones.files import write_atomically

MAX_JPEG_SIDE = 65_500  # pixels a side, libjpeg's limit
WRITABLE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp".split())


def write_image(path: str | os.PathLike, image: np.ndarray) -> Path:
    """Writes (H, W, 3) RGB uint8 as the format that the suffix of ``path`` names (``WRITABLE_SUFFIXES``), atomically.

    A JPEG has at most 65,500 pixels a side; a larger picture is shrunk to them. Written by Pillow, which takes any
    file name; OpenCV dies of one that is not UTF-8.
    """
    is_jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
    if is_jpeg and max(image.shape[:2]) > MAX_JPEG_SIDE:
        factor = MAX_JPEG_SIDE / max(image.shape[:2])
        sides = (max(int(side * factor), 1) for side in image.shape[1::-1])
        image = cv2.resize(image, tuple(sides), interpolation=cv2.INTER_AREA)
    options = {"quality": 92} if is_jpeg else {}
    kind = Image.registered_extensions()[Path(path).suffix.lower()]
    return write_atomically(path, encoded(image, kind, **options))


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
    """(H, W, 3) RGB uint8 as a picture file's content, of a kind that Pillow writes ("PNG", which loses nothing)."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind, **options)
    return content.getvalue()
