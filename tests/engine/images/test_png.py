"""A PNG's checksums decide alike wherever one is read."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from detection.annotations.image_files import DamagedImage, ImageSize, inspect_image
from engine.images.png import SIGNATURE, undamaged
from engine.images.reading import UnreadableImage, open_image, read_image


def chunks(data):
    """[(kind, content, checksum)] of PNG data."""
    found, at = [], len(SIGNATURE)
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : end], data[end : end + 4]))
        at = end + 4
    return found


def joined(parts):
    return SIGNATURE + b"".join(len(content).to_bytes(4, "big") + kind + content + crc for kind, content, crc in parts)


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.fixture(scope="module")
def png():
    """A picture with a palette, transparency, a text before the pixels and one behind, in several IDAT chunks."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8), "L").convert("P")
    text, turned = PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("Author", "one")
    turned[274] = 6
    out = io.BytesIO()
    image.save(out, "PNG", pnginfo=text, transparency=3, exif=turned)
    parts = []
    for kind, content, crc in chunks(out.getvalue()):
        pieces = [content[:200], content[200:]] if kind == b"IDAT" else [content]
        parts += [(kind, c, zlib.crc32(kind + c).to_bytes(4, "big") if kind == b"IDAT" else crc) for c in pieces]
    behind = b"Comment\0two"
    parts.insert(-1, (b"tEXt", behind, zlib.crc32(b"tEXt" + behind).to_bytes(4, "big")))
    return joined(parts)


def refused(path):
    for read in (read_image, open_image):
        with pytest.raises(UnreadableImage, match=f"{path.name}: cannot be read as a picture .the PNG data are"):
            read(path)
    for decode in (False, True):
        with pytest.raises(DamagedImage, match="the PNG data are"):
            inspect_image(path, decode)
    return True


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT"])
def test_what_the_pixels_depend_on_is_not_read_damaged(kind, png, tmp_path):
    for number, (found, content, crc) in enumerate(parts := chunks(png)):
        for place in (0, len(content) // 2, len(content) - 1) if found == kind else ():
            damaged = [*parts[:number], (found, flipped(content, place), crc), *parts[number + 1 :]]
            (tmp_path / "a.png").write_bytes(joined(damaged))
            assert refused(tmp_path / "a.png")


def test_wrong_checksums_of_whole_pixels_and_of_texts_do_no_harm(png, tmp_path):
    (tmp_path / "whole.png").write_bytes(png)
    harmless = [(k, c, flipped(crc, 0) if k in (b"IDAT", b"tEXt", b"IEND") else crc) for k, c, crc in chunks(png)]
    assert sum(a != b for a, b in zip(harmless, chunks(png), strict=True)) == 5
    (tmp_path / "a.png").write_bytes(joined(harmless))
    assert np.array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "whole.png"))
    assert inspect_image(tmp_path / "a.png") == ImageSize(30, 40, True)


def test_any_changed_bit_is_refused_or_changes_nothing(png, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png)
    whole, read = read_image(path), 0
    for place in np.random.default_rng(1).permutation(len(png))[:150]:
        path.write_bytes(flipped(png, int(place)))
        try:
            pixels = read_image(path)
        except UnreadableImage:
            with pytest.raises(DamagedImage):
                inspect_image(path)
            continue
        read += 1
        assert np.array_equal(pixels, whole) and inspect_image(path) == ImageSize(30, 40, True)
    assert read < 75


def test_a_cut_file_is_refused(png, tmp_path):
    for length in range(len(SIGNATURE) + 1, len(png), 37):
        (tmp_path / "a.png").write_bytes(png[:length])
        assert refused(tmp_path / "a.png")


def test_whole_data_and_other_formats_stay_what_they_are(png):
    for data in (png, png + b"behind the end", b"", b"GIF89a", SIGNATURE[:5]):
        assert undamaged(data) is data
