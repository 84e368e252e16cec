"""Every kind of picture file, and the one reading that it has."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from engine.images.reading import UnreadableImage, read_image
from engine.images.writing import write_image


@pytest.fixture
def picture():
    """(40, 60, 3): smooth, so that JPEG keeps it, and different in every corner."""
    y, x = np.mgrid[:40, :60]
    return np.stack([4 * x, 6 * y, 255 - 4 * x], axis=2).astype(np.uint8)


def close(a, b, tolerance=12):
    assert a.shape == b.shape and a.dtype == np.uint8
    return np.abs(a.astype(int) - b.astype(int)).max() <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tif", ".gif"])
def test_lossless_formats_come_back(tmp_path, picture, suffix):
    image = Image.fromarray(picture)
    image.save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    assert close(read_image(tmp_path / f"a{suffix}"), picture, 40 if suffix == ".gif" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, picture, orientation):
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif)
    assert close(read_image(tmp_path / "a.jpg"), picture)


def test_grey_palette_and_cmyk_become_rgb(tmp_path, picture):
    grey = Image.fromarray(picture).convert("L")
    expected = np.repeat(np.asarray(grey)[:, :, None], 3, axis=2)
    grey.save(tmp_path / "grey.png")
    assert close(read_image(tmp_path / "grey.png"), expected, 0)
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    assert close(read_image(tmp_path / "cmyk.jpg"), picture)
    Image.fromarray(picture).quantize(256).save(tmp_path / "palette.png")
    assert close(read_image(tmp_path / "palette.png"), picture, 40)


def test_sixteen_bits_keep_their_brightness(tmp_path, picture):
    grey = np.asarray(Image.fromarray(picture).convert("L"))
    Image.fromarray((grey.astype(np.uint16) << 8) + 77).save(tmp_path / "grey.png")
    assert close(read_image(tmp_path / "grey.png"), np.repeat(grey[:, :, None], 3, axis=2), 0)
    (tmp_path / "rgb.png").write_bytes(_png16(picture))
    assert close(read_image(tmp_path / "rgb.png"), picture, 1)


def _png16(picture):
    """A PNG of 16 bits a channel, which Pillow reads but does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", picture.shape[1], picture.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_transparency_is_laid_on_white(tmp_path, picture):
    alpha = np.zeros(picture.shape[:2], np.uint8)
    alpha[:, :30] = 255
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "a.png")
    expected = picture.copy()
    expected[:, 30:] = 255
    assert close(read_image(tmp_path / "a.png"), expected, 0)


def test_a_picture_too_long_for_jpeg_is_shrunk(tmp_path):
    long = np.zeros((3, 70_000, 3), np.uint8)
    assert read_image(write_image(tmp_path / "long.jpg", long)).shape == (2, 65_500, 3)
    assert read_image(write_image(tmp_path / "long.png", long)).shape == long.shape


def test_damaged_files_are_named(tmp_path, picture):
    whole = write_image(tmp_path / "whole.jpg", picture).read_bytes()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    png = write_image(tmp_path / "whole.png", picture).read_bytes()
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "bits.png").write_bytes(png[:60] + bytes(20) + png[80:])
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    for name in "empty.jpg text.png cut.jpg cut.png bits.png folder.jpg float.tif absent.jpg".split():
        with pytest.raises(UnreadableImage, match=name):
            read_image(tmp_path / name)


def grey_ramp(bits):
    """(40, 60) uint16 over the whole range, and what is right for it in 8 bits, (40, 60, 3)."""
    values = (np.arange(40 * 60).reshape(40, 60) * (2**bits - 1) // (40 * 60 - 1)).astype(np.uint16)
    return values, np.repeat((values >> (bits - 8)).astype(np.uint8)[:, :, None], 3, axis=2)


def tiff(path, values, *tags):
    """A grey TIFF of 16-bit values in the byte order of `values`; tags are (number, value) of a short each."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    tags = sorted([(256, values.shape[1]), (257, values.shape[0]), (259, 1), (278, values.shape[0]), *tags])
    count = len(tags) + 2
    data_at = 8 + 2 + 12 * count + 4
    entries = [(number, 3, value) for number, value in tags] + [(273, 4, data_at), (279, 4, values.nbytes)]
    head = struct.pack(order + "2sHI", b"MM" if order == ">" else b"II", 42, 8) + struct.pack(order + "H", count)
    for number, kind, value in sorted(entries):
        head += struct.pack(order + "HHI", number, kind, 1)
        head += struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
    path.write_bytes(head + bytes(4) + values.tobytes())
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jp2"])
def test_the_upper_eight_of_sixteen_bits_are_read(tmp_path, name):
    values, expected = grey_ramp(16)
    Image.fromarray(values).save(tmp_path / name)
    assert close(read_image(tmp_path / name), expected, 0)


def test_dark_pictures_of_sixteen_bits_stay_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 0).all()


def test_byte_order_white_is_zero_and_twelve_bits(tmp_path):
    values, expected = grey_ramp(16)
    for order in "<>":
        path = tiff(tmp_path / "a.tif", values.astype(f"{order}u2"), (258, 16), (262, 1), (277, 1))
        assert close(read_image(path), expected, 0)
    path = tiff(tmp_path / "a.tif", 65535 - values, (258, 16), (262, 0), (277, 1))
    assert close(read_image(path), expected, 0)
    values, expected = grey_ramp(12)
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)  # two values in three bytes
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).astype(np.uint8)
    path = tiff(tmp_path / "a.tif", packed.reshape(40, 90), (258, 12), (262, 1), (277, 1))
    width = [struct.pack("<HHIHH", 256, 3, 1, pixels, 0) for pixels in (90, 60)]
    path.write_bytes(path.read_bytes().replace(*width))
    assert close(read_image(path), expected, 0)


@pytest.mark.parametrize("values", [np.zeros((4, 4), np.int32), np.zeros((4, 4), np.float32)])
def test_values_of_unknown_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match="a.tif: .*unknown range; save it with 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


def test_signed_sixteen_bits_are_refused(tmp_path):
    values, _ = grey_ramp(16)
    with pytest.raises(UnreadableImage, match="signed"):
        read_image(tiff(tmp_path / "a.tif", values, (258, 16), (262, 1), (277, 1), (339, 2)))


HIDDEN = {  # the left half is shown, the right half is not, whatever its colours
    "RGBA": lambda p, a: Image.fromarray(np.dstack([p, a])),
    "LA": lambda p, a: Image.merge("LA", [Image.fromarray(p).convert("L"), Image.fromarray(a)]),
    "palette": lambda p, a: Image.fromarray(np.where(a > 0, np.arange(60) % 3, 3).astype(np.uint8), "P"),
}


@pytest.mark.parametrize(
    "kind, suffix",
    [
        ("RGBA", "png"),
        ("RGBA", "webp"),
        ("RGBA", "tif"),
        ("LA", "png"),
        ("LA", "tif"),
        ("palette", "png"),
        ("palette", "gif"),
    ],
)
def test_what_is_transparent_is_white(tmp_path, picture, kind, suffix):
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, :30] = 255
    image, options = HIDDEN[kind](picture, alpha), {"webp": {"lossless": True}}.get(suffix, {})
    if kind == "palette":
        image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
        options = {"transparency": 3}
    image.save(tmp_path / f"a.{suffix}", **options)
    read = read_image(tmp_path / f"a.{suffix}")
    assert (read[:, 30:] == 255).all()
    assert close(read[:, :30], np.asarray(image.convert("RGB"))[:, :30], 0)


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (4, 4), (100, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png")[0, 0].astype(int) - [177, 127, 127]).max() <= 1


def test_one_grey_that_is_transparent(tmp_path):
    for values, shown in ((np.eye(4, dtype=bool), 255), (np.eye(4, dtype=np.uint16) * 50_000, 195)):
        Image.fromarray(values).save(tmp_path / "a.png", transparency=0)
        read = read_image(tmp_path / "a.png")[:, :, 0]
        assert (read[~np.eye(4, dtype=bool)] == 255).all() and (read.diagonal() == shown).all()


def test_an_animation_is_its_first_picture(tmp_path):
    pictures = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "lime")]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], **lossless)
        assert (read_image(tmp_path / name) == [255, 0, 0]).all(), name


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_are_converted(tmp_path, mode):
    white = {"LAB": (255, 128, 128), "CMYK": (0, 0, 0, 0), "YCbCr": (255, 128, 128)}.get(mode, 1)
    Image.new(mode, (4, 4), white).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").min() >= 250


def test_damaged_metadata_are_no_damage(tmp_path, picture):
    for name, wanted in (("a.jpg", 12), ("a.png", 0), ("a.webp", 40)):
        Image.fromarray(picture).save(tmp_path / name, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(range(40)))
        assert close(read_image(tmp_path / name), picture, wanted), name


def test_more_pixels_than_allowed_name_the_key(tmp_path, picture):
    for name in ("a.jpg", "a.png"):
        Image.fromarray(picture).save(tmp_path / name)
        with pytest.raises(UnreadableImage, match=rf"{name}: .*2,400 pixels.*INPUT.MAX_PIXELS allows 2,399"):
            read_image(tmp_path / name, 2399)
        assert read_image(tmp_path / name, 2400).shape == read_image(tmp_path / name, 0).shape == (40, 60, 3)


def test_pillows_own_limit_does_not_count_and_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (20, 20, 3) and Image.MAX_IMAGE_PIXELS == 16


def test_what_is_no_picture_says_what_it_is(tmp_path):
    for content, message in (
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><title>404</title>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"GIF89a", "not an image|truncated|EOF"),
        (b"GIF89a" + bytes(7) + b";", "no pixels|not an image"),
    ):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(UnreadableImage, match=f"a.jpg: .*({message})"):
            read_image(tmp_path / "a.jpg")


def test_names_that_are_not_utf8_are_read_and_written(tmp_path, picture):
    path = tmp_path / os.fsdecode(b"l\xe9.png")
    write_image(path, picture)
    assert os.listdir(os.fsencode(tmp_path)) == [b"l\xe9.png"] and close(read_image(path), picture, 0)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (2, 3)])
def test_strips_are_read_and_written(tmp_path, size):
    strip = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / name, strip)
        assert read_image(tmp_path / name).shape == strip.shape


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg", "x" * 300])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(UnreadableImage, match="cannot be read as a picture"):
        read_image(tmp_path / name)
