"""What a JPEG file says of itself before its pixels: enough to plan a cheap decoding."""

from __future__ import annotations

from dataclasses import dataclass

_SIZE_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # C4, C8 and CC are no frame headers
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2


@dataclass(frozen=True)
class JpegHeader:
    """Facts from the segments in front of the pixels (ITU-T T.81, annex B).

    Attributes:
        height, width: as stored, before any EXIF rotation.
        channels: 1 grey, 3 colour; 4 is CMYK.
        row_by_row: all channels come in one scan from top to bottom, without restart markers.
        supported: 8 bits a channel, Huffman coded, baseline or progressive: what every decoder reads.
        has_metadata: there is EXIF or XMP data, which may hold a rotation.
        height_at: where in the file the height stands, 2 bytes, the high one first.
        scan_at: where the first scan begins.
    """

    height: int
    width: int
    channels: int
    row_by_row: bool
    supported: bool
    has_metadata: bool
    height_at: int
    scan_at: int


def read_jpeg_header(data: bytes | bytearray) -> JpegHeader | None:
    """The header of a JPEG file's content; None where it is no JPEG, or its header is damaged."""
    if data[:2] != b"\xff\xd8":
        return None
    frame, frame_at, restarts, has_metadata = 0, 0, False, False
    at, end = 2, len(data)
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes are allowed in front of a marker
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _SIZE_MARKERS:
            frame, frame_at = marker, at
        elif marker == 0xDD:
            restarts = data[at + 4 : at + 6] != b"\0\0"
        elif marker == 0xE1:
            has_metadata = True
        elif marker == 0xDA:
            break
        at += 2 + length
    else:
        return None
    if not frame or at + 5 > end:
        return None
    channels = data[frame_at + 9]
    return JpegHeader(
        height=int.from_bytes(data[frame_at + 5 : frame_at + 7], "big"),
        width=int.from_bytes(data[frame_at + 7 : frame_at + 9], "big"),
        channels=channels,
        row_by_row=frame in (_BASELINE, _EXTENDED) and data[at + 4] == channels and not restarts,
        supported=frame in (_BASELINE, _EXTENDED, _PROGRESSIVE) and data[frame_at + 4] == 8,
        has_metadata=has_metadata,
        height_at=frame_at + 5,
        scan_at=at,
    )
