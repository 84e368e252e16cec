"""What a PNG file's checksums say, without decoding it."""

from __future__ import annotations

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIECE = 2**20  # bytes that are decompressed at a time
# What no pixel depends on, as pictures are read here. (eXIf does not belong to them: it turns the picture.)
_HARMLESS = frozenset(b"tEXt zTXt iTXt tIME pHYs oFFs gAMA cHRM sRGB iCCP cICP bKGD hIST sPLT sBIT IEND".split())
_TURNING = (b"XML:com.adobe.xmp\0", b"Raw profile type ")  # texts that may hold an orientation


def undamaged(data: bytes | bytearray) -> bytes | bytearray:
    """The data of a PNG file, if what they show is what was written, by each chunk's checksum (PNG, 5.3).

    - A wrong checksum of the pixels' chunks (IDAT) does no harm where the pixels' own checksum, Adler-32 within the
      compressed data, holds.
    - Texts and other metadata whose checksum is wrong are left out: Pillow refuses a file for them.
    - Data of other formats are returned as they are.

    1 ms for a megabyte, where decoding takes 20.

    Returns:
        the very same object, unless something is left out.

    Raises:
        ValueError: they are damaged, or cut short.
    """
    if not data.startswith(SIGNATURE):
        return data
    view, at, kind = memoryview(data), len(SIGNATURE), b""
    pixels: list[memoryview] = []
    pixels_in_doubt, left_out = False, []
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if end > len(data):
            raise ValueError("the PNG data are cut short, or damaged")
        content = view[at + 8 : end - 4]
        holds = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
        if kind == b"IDAT":
            pixels.append(content)
            pixels_in_doubt |= not holds
        elif not holds:
            if kind not in _HARMLESS or bytes(content[:32]).startswith(_TURNING):
                raise ValueError(f"the PNG data are damaged: wrong checksum of {kind.decode('latin-1')!r}")
            if kind != b"IEND":
                left_out.append((at, end))
        at = end
    if pixels_in_doubt and not _adler_holds(pixels):
        raise ValueError("the PNG data are damaged: wrong checksum of the pixels")
    if not left_out:
        return data
    kept, begin = bytearray(), 0
    for start, end in left_out:
        kept += view[begin:start]
        begin = end
    return kept + view[begin:]


def _adler_holds(pieces: list[memoryview]) -> bool:
    """Whether compressed data come to their end, which zlib lets them only with the right Adler-32."""
    decompressor = zlib.decompressobj()
    try:
        for piece in pieces:
            rest: bytes | memoryview = piece
            while rest and not decompressor.eof:
                decompressor.decompress(rest, _PIECE)
                rest = decompressor.unconsumed_tail
        while not decompressor.eof and decompressor.decompress(b"", _PIECE):  # what is left in its window
            pass
    except zlib.error:
        return False
    return decompressor.eof
