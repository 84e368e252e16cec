"""Whether an image file is whole, and how large it is upright, without decoding it if possible."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import BinaryIO

from engine.images.by_pillow import MAX_PIXELS, opened, orientation, reason
from engine.images.png import SIGNATURE, undamaged
from engine.images.reading import UnreadableImage, read_image

TURNED_BY_90 = (5, 6, 7, 8)
TAIL_BYTES = 4096


class DamagedImage(Exception):
    """The file is there and cannot be used; the message says why, without its name."""


@dataclass(frozen=True)
class ImageSize:
    """Width and height in pixels with the EXIF orientation applied, as training reads the image.

    turned: the orientation exchanges width and height, so the stored size is the other way round.
    """

    width: int
    height: int
    turned: bool = False


def inspect_image(path: str | os.PathLike, decode: bool = False, max_pixels: int = MAX_PIXELS) -> ImageSize:
    """The size of an image, after checks that the file is whole and of a kind that training can read.

    Without `decode` the header is read and the end looked at: a JPEG ends with its end marker, a PNG with its
    IEND chunk. The marker's bytes cannot occur in JPEG picture data (a data byte 0xFF is followed by 0), so a
    file cut off anywhere is noticed, at the price of one seek; and of a PNG the checksums are compared, as whenever
    one is read. Only where the end is not found, or the format is another one, is the whole image decoded, and that
    decides: some cameras append data of their own. What this cannot see are bytes changed in the middle of a JPEG;
    `decode` finds what a decoder notices of those, but takes 1 to 4 ms an image of 640 x 480 where
    the header takes 0.1 ms (measured: 118,000 images in 12 s, or in 8 minutes).

    Args:
        max_pixels: width times height that are allowed; 0: any.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedImage: unreadable, cut off, not an image, larger than allowed, or with values of unknown range.
    """
    try:
        with open(path, "rb") as file, opened(_source(file), max_pixels) as image:
            end = _tail(file)
            # Pillow decodes a whole PNG to look for EXIF data behind the picture; the end says whether it has
            # any.
            if image.format != "PNG" or {"exif", "xmp", "XML:com.adobe.xmp"} & set(image.info) or b"eXIf" in end:
                turned = orientation(image) in TURNED_BY_90
            else:
                turned = False
            width, height = image.size
            kind = image.format
            whole = _ends_properly(end, kind)
        if decode or not whole:
            read_image(path, max_pixels)
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise DamagedImage("it is a folder") from None
    except UnreadableImage as error:
        raise DamagedImage(error.why) from None
    except Exception as error:  # Pillow's readers raise almost anything on damaged files
        raise DamagedImage(reason(path, error)) from None
    return ImageSize(height, width, True) if turned else ImageSize(width, height)


def _source(file: BinaryIO) -> BinaryIO:
    """What Pillow is to open: the file, or what is left of a PNG file without damaged metadata."""
    if file.read(len(SIGNATURE)) == SIGNATURE:
        file.seek(0)
        data = file.read()
        whole = undamaged(data)
        if whole is not data:
            return io.BytesIO(whole)
    file.seek(0)
    return file


def _tail(file) -> bytes:
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
    return file.read()


def _ends_properly(end: bytes, image_format: str | None) -> bool:
    if image_format in ("JPEG", "MPO"):
        return b"\xff\xd9" in end
    return image_format == "PNG" and end.endswith(b"IEND\xaeB`\x82")
