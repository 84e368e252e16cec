"""Reading pictures: what comes out equals Pillow's decoding, whatever the file and however little is decoded of it."""

import io
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from engine.images.reading import (
    Box,
    DecodedImage,
    JpegImage,
    UnreadableImage,
    image_from_bytes,
    image_from_pixels,
    open_image,
    read_image,
    whole,
)
from soak.mutation import mutate_bytes
from soak.pictures import _pictures

BOXES = [Box(0, 0, 1, 1), Box(3, 5, 40, 50), Box(60, 31, 59, 33), Box(0, 0, 120, 97), Box(119, 96, 1, 1)]


def picture(height=120, width=97, seed=0):
    """Smooth colours, edges and a little noise: each pixel's place can be told."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(-10, 10, (height, width, 3))
    base = np.stack([x * 255 // width, y * 255 // height, 128 + 100 * ((x // 16 + y // 16) % 2)], axis=2)
    return Image.fromarray(np.clip(base + noise, 0, 255).astype(np.uint8))


def save(path, image, **options):
    image.save(path, **options)
    return path


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def by_pillow(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


JPEGS = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
    "coarse": {"quality": 5},
    "RGB inside": {"keep_rgb": True},
    **{f"orientation {number}": {"exif": exif(number)} for number in range(1, 9)},
}


@pytest.mark.parametrize("name", JPEGS)
def test_any_part_of_a_jpeg_equals_that_part_of_pillows_decoding(name, tmp_path, capfd):
    path = save(tmp_path / "a.jpg", picture(), **JPEGS[name])
    expected = by_pillow(path)
    assert np.array_equal(read_image(path), expected)
    image = open_image(path)
    assert isinstance(image, JpegImage) and (image.height, image.width) == expected.shape[:2]
    turned = image.height < image.width
    for top, left, height, width in BOXES:
        box = Box(left, top, width, height) if turned else Box(top, left, height, width)
        part = expected[box.top : box.top + box.height, box.left : box.left + box.width]
        assert np.array_equal(image.crop(box), part), box
    assert np.array_equal(read_image(path), expected)  # decoding a part leaves the data as they were
    assert capfd.readouterr().err == ""  # libjpeg complains on stderr, past Python


@pytest.mark.parametrize("sampling", [0x411111, 0x121111, 0x141111, 0x221211])
def test_rare_chroma_samplings_are_read_as_pillow_reads_them(sampling, tmp_path):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), np.asarray(picture()), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling])
    expected, box = by_pillow(path), Box(10, 20, 30, 40)
    assert np.array_equal(read_image(path), expected)
    assert np.array_equal(open_image(path).crop(box), expected[10:40, 20:60])


@pytest.mark.parametrize("reduction", [1, 2])
def test_what_the_fast_decoder_refuses_another_one_reads(reduction, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise ValueError("an unknown sampling")

    path = save(tmp_path / "a.jpg", picture(), exif=exif(6))
    monkeypatch.setattr("simplejpeg.decode_jpeg", refuse)
    assert np.array_equal(open_image(path).crop(Box(10, 20, 30, 40), reduction), by_pillow(path)[10:40, 20:60])


def test_an_image_stays_as_it_is_while_others_are_decoded(tmp_path):
    paths = [save(tmp_path / f"{seed}.jpg", picture(seed=seed)) for seed in range(8)]
    expected = [by_pillow(path) for path in paths]
    assert all(map(np.array_equal, [read_image(path) for path in paths], expected))
    with ThreadPoolExecutor(8) as threads:  # decoding lets other threads run
        for _ in range(20):
            assert all(map(np.array_equal, threads.map(read_image, paths), expected))


def test_a_grey_jpeg_is_converted(tmp_path):
    path = save(tmp_path / "a.jpg", picture().convert("L"))
    assert isinstance(open_image(path), JpegImage)
    assert np.array_equal(read_image(path), by_pillow(path)) and read_image(path).shape == (120, 97, 3)


def sixteen_bit(path):
    values = np.arange(120 * 97, dtype=np.uint32).reshape(120, 97) * 65535 // (120 * 97)
    return save(path, Image.fromarray(values.astype(np.uint16)))


OTHERS = {
    "cmyk.jpg": lambda path: save(path, picture().convert("CMYK")),
    "grey16.png": sixteen_bit,
    "palette.png": lambda path: save(path, picture().quantize(16), transparency=3),
    "alpha.png": lambda path: save(path, picture().convert("RGBA")),
    "a.webp": lambda path: save(path, picture()),
    "a.bmp": lambda path: save(path, picture()),
    "png-inside.jpg": lambda path: save(path, picture(), format="PNG"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_plain_jpeg_is_read_as_anywhere_else(name, tmp_path):
    path = OTHERS[name](tmp_path / name)
    image = open_image(path)
    assert isinstance(image, DecodedImage)
    expected = read_image(path)
    assert np.array_equal(read_image(path), expected) and expected.shape == (120, 97, 3)
    assert np.array_equal(image.crop(Box(7, 9, 20, 30)), expected[7:27, 9:39])


def test_a_jpeg_is_recognised_under_any_suffix(tmp_path):
    path = save(tmp_path / "a.png", picture(), format="JPEG")
    assert isinstance(open_image(path), JpegImage)


def jpeg_bytes(**options):
    buffer = io.BytesIO()
    picture(300, 400).save(buffer, "JPEG", **options)
    return buffer.getvalue()


BROKEN = {
    "cut in the middle": lambda: jpeg_bytes()[: len(jpeg_bytes()) // 2],
    "cut in the last tenth": lambda: jpeg_bytes()[: len(jpeg_bytes()) * 9 // 10],
    "without its last byte": lambda: jpeg_bytes()[:-1],
    "cut, progressive": lambda: jpeg_bytes(progressive=True)[: len(jpeg_bytes(progressive=True)) // 2],
    "cut, with a thumbnail's end marker": lambda: _with_thumbnail(jpeg_bytes())[:-3000],
    "the rest is zeros": lambda: jpeg_bytes()[: len(jpeg_bytes()) // 2] + bytes(5000),
    "cut in the header": lambda: jpeg_bytes()[:100],
    "text": lambda: b"this is no picture",
    "empty": lambda: b"",
    "two bytes": lambda: b"\xff\xd8",
    "damaged in the middle": lambda: _overwritten(jpeg_bytes()),
    "damaged, with restart markers": lambda: _overwritten(jpeg_bytes(restart_marker_rows=1)),
    "cut PNG": lambda: _png()[:2000],
    "PNG with one bit changed": lambda: _flipped(_png()),
}


def _with_thumbnail(data):
    """With a segment in which there is a small JPEG, as cameras write it."""
    small = io.BytesIO()
    picture(16, 16).save(small, "JPEG")
    body = b"Exif\0\0" + small.getvalue()
    return data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def _overwritten(data):
    """With zeros for 300 bytes of picture data, which Pillow shows as grey without a word."""
    middle = len(data) // 2
    return data[:middle] + bytes(300) + data[middle + 300 :]


def _flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


def _png():
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_never_grey(name, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(BROKEN[name]())
    with pytest.raises(UnreadableImage, match="broken.jpg: cannot be read as a picture"):
        read_image(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(UnreadableImage, match=path.name):
            open_image(path)


def test_a_whole_file_is_read_whatever_follows_it(tmp_path, capfd):
    for extra in (b"\0" * 10, b"appended by some program", jpeg_bytes()):
        path = tmp_path / "a.jpg"
        path.write_bytes(_with_thumbnail(jpeg_bytes()) + extra)
        expected = by_pillow(path)
        assert np.array_equal(read_image(path), expected)
        assert np.array_equal(open_image(path).crop(Box(10, 20, 100, 200)), expected[10:110, 20:220])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_reduced_decoding_keeps_the_size_asked_for_and_shows_the_same(orientation, tmp_path):
    path = save(tmp_path / "a.jpg", picture(336, 520), exif=exif(orientation), quality=95)
    whole, image = read_image(path).astype(int), open_image(path)
    for reduction in (1, 2, 4, 8):
        pixels = image.crop(Box(0, 0, image.height, image.width), reduction)
        assert pixels.shape[:2] == (-(-image.height // reduction), -(-image.width // reduction))
        box = image.aligned(Box(33, 57, 250, 251), reduction)
        shown = Image.fromarray(image.crop(box, reduction))
        part = whole[box.top : box.top + box.height, box.left : box.left + box.width]
        reference = Image.fromarray(part.astype(np.uint8)).resize(shown.size, Image.BOX)
        assert np.abs(np.asarray(shown).astype(int) - np.asarray(reference).astype(int)).mean() < 6, reduction


def test_an_aligned_box_stays_inside(tmp_path):
    image = open_image(save(tmp_path / "a.jpg", picture(333, 517)))
    rng = np.random.default_rng(0)
    for _ in range(500):
        reduction = int(rng.choice([1, 2, 4, 8]))
        height, width = int(rng.integers(reduction, 334)), int(rng.integers(reduction, 518))
        box = Box(int(rng.integers(334 - height)), int(rng.integers(518 - width)), height, width)
        aligned = image.aligned(box, reduction)
        assert 0 <= aligned.top <= 333 - aligned.height and 0 <= aligned.left <= 517 - aligned.width
        assert all(side % reduction == 0 for side in aligned) and min(aligned.height, aligned.width) > 0
        assert max(abs(a - b) for a, b in zip(aligned, box, strict=True)) < reduction


def outcome(read, name):
    """Pixels, or what is said, without the name."""
    try:
        return read().tobytes()
    except UnreadableImage as error:
        assert str(error).startswith(f"{name}: ")
        return error.why


@pytest.mark.parametrize("name", _pictures())
def test_bytes_in_memory_are_what_they_are_as_a_file(name, tmp_path):
    """Of every format, whole and damaged in many ways; what is said of the damage, too."""
    content, path = _pictures()[name], tmp_path / name
    for seed in range(12):
        data = mutate_bytes(content, np.random.default_rng(seed))[0] if seed else content
        path.write_bytes(data)
        expected = outcome(lambda: read_image(path), path)
        found = outcome(lambda data=data: whole(image_from_bytes(bytearray(data), f"x.zip/{name}")), f"x.zip/{name}")
        assert found == expected, seed


NO_PICTURES = [(b"", "the file is empty"), (b" <html>", "a web page"), (b"version https://git-lfs", "Git LFS")]


@pytest.mark.parametrize("data, why", NO_PICTURES)
def test_what_is_no_picture_is_said_of_bytes_too(data, why):
    with pytest.raises(UnreadableImage, match=rf"^a\.zip/1\.jpg: cannot be read as a picture \(.*{why}"):
        image_from_bytes(bytearray(data), "a.zip/1.jpg")


def test_pixels_are_an_image_and_stay_as_they_are():
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    pixels.flags.writeable = False
    image = image_from_pixels(pixels, "set/1", 48)
    assert isinstance(image, DecodedImage) and image.pixels is pixels and (image.height, image.width) == (8, 6)
    for box in (Box(0, 0, 8, 6), Box(2, 0, 3, 6), Box(1, 1, 2, 3)):
        part = image.crop(box)
        assert np.array_equal(part, pixels[box.top : box.top + box.height, box.left : box.left + box.width])
        part[:] = 0
    assert pixels[0, 0, 1] == 1 and pixels[7, 5, 2] == 143
    with pytest.raises(UnreadableImage, match="set/1: .*48 pixels, and INPUT.MAX_PIXELS allows 47"):
        image_from_pixels(pixels, "set/1", 47)
