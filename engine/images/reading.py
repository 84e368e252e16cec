"""The one reader of picture files, for all that reads them: whole, or, where a crop is chosen first, no further than
needed."""

from __future__ import annotations

import io
import os
import threading
import warnings
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from engine.errors import UserError
from engine.images.by_pillow import MAX_PIXELS, check_size, opened, orientation, reason, upright_rgb
from engine.images.jpeg_header import JpegHeader, read_jpeg_header
from engine.images.png import undamaged

REDUCTIONS = (8, 4, 2)  # at which a JPEG can be decoded, the strongest first

_UPRIGHT = {  # by EXIF orientation; 1 is upright
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_END_MARKER = b"\xff\xd9"
_ORIENTATION_SIGNS = (b"\x01\x12", b"\x12\x01", b"Orientation")  # EXIF's tag in either byte order, and XMP's
_SPARE_ROWS = 4  # the last rows that are decoded lack what their colour is smoothed with: two chroma rows
MAX_BLOCK_ROWS = 32  # that are decoded together, at most
MAX_KEPT_BYTES = 2**24  # of pixels that a thread keeps the memory of
MAX_FAST_PIXELS = 2**27  # more is left to Pillow
# What libjpeg only warns of, where picture data are lost for certain. (Bytes too many it skips; those do no harm.)
_DAMAGE = ("premature end", "bad Huffman code", "instead of RST", "Inconsistent progression")


class UnreadableImage(UserError):
    """A file that is missing, damaged, cut short, too large or no picture; the message names it.

    Attributes:
        why: the message without the file's name.
    """

    why = ""


class _Content(NamedTuple):
    """A picture file's bytes.

    Attributes:
        name: for messages.
        path: of the file that they are all of; None where there is none.
    """

    name: str | os.PathLike
    path: str | os.PathLike | None
    data: bytearray


class Box(NamedTuple):
    """A part of an upright image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


class DecodedImage:
    """An image whose pixels are there already; see ``JpegImage``, whose interface it has."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]
        self.nbytes = pixels.nbytes

    def crop(self, box: Box, reduction: int = 1) -> np.ndarray:
        """The box's pixels, (h, w, 3) uint8 in one piece, in full size whatever the reduction. They may be changed: of
        pixels that may not be (a file's, mapped into memory) they are a copy."""
        return np.require(self.pixels[box.top : box.top + box.height, box.left : box.left + box.width], None, "CW")

    def aligned(self, box: Box, reduction: int) -> Box:
        """The box."""
        return box


class JpegImage:
    """A JPEG file in memory, not decoded yet.

    Attributes:
        height, width: of the upright image.
        nbytes: of memory that it holds.
    """

    def __init__(self, content: _Content, header: JpegHeader):
        self._content, self._data, self._header, self.nbytes = content, content.data, header, len(content.data)
        self._orientation = _orientation(content.data, header) if header.has_metadata else 1
        self.height, self.width = header.height, header.width
        if self._orientation >= 5:
            self.height, self.width = self.width, self.height

    def crop(self, box: Box, reduction: int = 1) -> np.ndarray:
        """The pixels of a box of the upright image, RGB uint8.

        Damaged data are noticed where the image is decoded to its last row; for a box that ends further up they pass
        unnoticed.

        Args:
            box: within the image.
            reduction: decode at 1/2, 1/4 or 1/8 of the size, for 2, 4 or 8: a JPEG can be decoded to these sizes
                directly, by smaller inverse cosine transforms.

        Returns:
            (h, w, 3), the box's own size, or that over 2, 4 or 8, rounded up.

        Raises:
            UnreadableImage: the data cannot be decoded; the message names the file.
        """
        upright = self._orientation == 1
        pixels = self._stored_pixels(reduction, box.top + box.height if upright else self._header.height)
        if pixels is None:  # a kind that only other decoders know
            return DecodedImage(_read_by_pillow(self._content, 0)).crop(box)
        if not upright:
            pixels = _UPRIGHT[self._orientation](pixels)
        box = _reduced(box, reduction)
        return pixels[box.top : box.top + box.height, box.left : box.left + box.width].copy()

    def aligned(self, box: Box, reduction: int) -> Box:
        """The box, moved by less than ``reduction`` pixels to the borders of the reduced image's pixels.

        Cut from between them, it would be off by up to half a pixel after the reduction.
        """
        height, width = box.height // reduction * reduction, box.width // reduction * reduction
        top = min(round(box.top / reduction), (self.height - height) // reduction) * reduction
        left = min(round(box.left / reduction), (self.width - width) // reduction) * reduction
        return Box(top, left, height, width)

    def _stored_pixels(self, reduction: int, rows: int) -> np.ndarray | None:
        """RGB pixels as stored, of the whole image, or of its first ``rows`` rows at least; see ``_decode``."""
        header, rows = self._header, rows + _SPARE_ROWS * reduction
        if not header.row_by_row or rows > header.height - MAX_BLOCK_ROWS:
            try:
                return _decode(self._data, header.height, header.width, reduction, strict=True)
            except _DamagedData as error:
                raise unreadable(self._content.name, f"the JPEG data are damaged: {error}") from error
        # A decoder stops at the height that the header states.
        stated = slice(header.height_at, header.height_at + 2)
        self._data[stated] = rows.to_bytes(2, "big")
        pixels = _decode(self._data, rows, header.width, reduction)
        self._data[stated] = header.height.to_bytes(2, "big")
        return pixels


def open_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> JpegImage | DecodedImage:
    """A picture file with its size, decoded when a part of it is asked for.

    What it is, its content says, not its suffix. Colour and grey JPEG files come as ``JpegImage``; all others
    (PNG, WebP, CMYK, …) are decoded at once, see ``engine.images.by_pillow.upright_rgb``.

    Args:
        max_pixels: width times height that are allowed (INPUT.MAX_PIXELS); 0: any.

    Raises:
        UnreadableImage: missing, damaged, cut short, too large, no picture, or with values of unknown range.
    """
    return _image(_Content(path, path, read_bytes(path)), max_pixels)


def read_bytes(path: str | os.PathLike) -> bytearray:
    """A picture file's content, whatever it is. Raises UnreadableImage where it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            del data[file.readinto(data) :]
    except (OSError, ValueError) as error:
        raise unreadable(path, reason(path, error)) from error
    return data


def image_from_bytes(
    data: bytearray, name: str | os.PathLike, max_pixels: int = MAX_PIXELS
) -> JpegImage | DecodedImage:
    """As ``open_image``, for the content of a picture file that is in memory: one out of an archive, say.

    Args:
        data: the whole content; it belongs to the result.
        name: what messages call it.
        max_pixels: as there.

    Raises:
        UnreadableImage: as there, but for what is missing.
    """
    return _image(_Content(name, None, data), max_pixels)


def image_from_pixels(pixels: np.ndarray, name: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """(H, W, 3) RGB uint8 as an image, without a copy. Raises UnreadableImage, with ``name``, where there are more than
    ``max_pixels``."""
    try:
        check_size(pixels.shape[1], pixels.shape[0], max_pixels)
    except ValueError as error:
        raise unreadable(name, str(error)) from error
    return DecodedImage(pixels)


def read_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A whole picture file as (H, W, 3) RGB uint8, upright: the EXIF orientation is applied; grey, palette, CMYK and
    16-bit pictures are converted, transparency is laid on white; of an animation the first picture is taken.

    Of damage in the middle of a file is told what can be told: PNG has checksums (``engine.images.png``), of a JPEG
    the decoder notices some, and some formats have nothing to tell it by.

    Args, Raises: as ``open_image``.
    """
    return whole(open_image(path, max_pixels))


def whole(image: JpegImage | DecodedImage) -> np.ndarray:
    """All pixels of an image, (H, W, 3) RGB uint8. Raises UnreadableImage where they cannot be decoded."""
    return image.crop(Box(0, 0, image.height, image.width))


def _image(content: _Content, max_pixels: int) -> JpegImage | DecodedImage:
    """See ``open_image``."""
    data = content.data
    header = read_jpeg_header(data)
    if header is None or not header.supported or header.channels not in (1, 3):
        return DecodedImage(_read_by_pillow(content, max_pixels))
    if not 0 < header.height * header.width <= MAX_FAST_PIXELS:
        return DecodedImage(_read_by_pillow(content, max_pixels))
    try:
        check_size(header.width, header.height, max_pixels)
    except ValueError as error:
        raise unreadable(content.name, str(error)) from error
    # Within the pixels' data the marker cannot occur; metadata, where it can, lie in front of the scan. Most files end
    # with it, and those are not searched: it takes as long as a tenth of the decoding.
    if not data.endswith(_END_MARKER) and data.find(_END_MARKER, header.scan_at) < 0:
        # The decoder would make what is missing grey, without a word. Pillow finds it out too, unless a copy that broke
        # off left zeros.
        raise unreadable(content.name, "the JPEG data are cut short")
    return JpegImage(content, header)


def unreadable(path: str | os.PathLike, why: str) -> UnreadableImage:
    """What is said of a picture that cannot be read."""
    error = UnreadableImage(f"{path}: cannot be read as a picture ({why})")
    error.why = why
    return error


def _read_by_pillow(content: _Content, max_pixels: int) -> np.ndarray:
    name, path, data = content
    try:
        whole_data = undamaged(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata
            source = path if path is not None and whole_data is data else io.BytesIO(whole_data)
            with opened(source, max_pixels) as image:
                return upright_rgb(image)
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything, struct.error say
        raise unreadable(name, reason(data if path is None else path, error)) from error


def _orientation(data: bytearray, header: JpegHeader) -> int:
    """The EXIF orientation of JPEG data, 1..8."""
    if all(data.find(sign, 0, header.scan_at) < 0 for sign in _ORIENTATION_SIGNS):
        return 1  # without opening it a second time, which takes as long as a tenth of the decoding
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with opened(io.BytesIO(data), 0) as image:
                return orientation(image)
    except Exception:  # odd metadata can keep Pillow from opening what is decoded without it
        return 1


class _DamagedData(Exception):
    """Picture data are lost; the decoder's words."""


class _DecodeBuffer(threading.local):
    """Memory to decode into: new memory for each image would take time, as the system clears it first."""

    memory = bytearray()

    def of(self, size: int) -> bytearray:
        if size > MAX_KEPT_BYTES:
            return bytearray(size)
        if len(self.memory) < size:
            self.memory = bytearray(size)
        return self.memory


_decode_buffer = _DecodeBuffer()


def _decode(data: bytearray, height: int, width: int, reduction: int, strict: bool = False) -> np.ndarray | None:
    """RGB pixels, (H, W, 3), of JPEG data that state this height and width; None where they cannot be decoded.

    They lie in memory that the thread's next call writes to.

    Args:
        strict: raise ``_DamagedData`` where picture data are lost. With another height than the file's the decoder
            warns of the rest alone.
    """
    sides = -(-height // reduction), -(-width // reduction)
    memory = _decode_buffer.of(sides[0] * sides[1] * 3)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=sides[0], min_width=sides[1], buffer=memory, strict=strict
        )
    except ValueError as error:
        if strict and any(words in str(error) for words in _DAMAGE):
            raise _DamagedData(str(error)) from error
        return _decode(data, height, width, reduction) if strict else None
    return pixels if pixels.shape[:2] == sides else None


def _reduced(box: Box, reduction: int) -> Box:
    """What covers a box in an image that was made smaller."""
    top, left = box.top // reduction, box.left // reduction
    bottom, right = -(-(box.top + box.height) // reduction), -(-(box.left + box.width) // reduction)
    return Box(top, left, bottom - top, right - left)
