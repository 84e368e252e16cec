"""Pictures and videos as people have them."""

import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from engine.errors import UserError
from engine.predict.media import UnreadableMedia, Video, find_media, read_image, video_writer, write_image


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
        with pytest.raises(UnreadableMedia, match=name):
            read_image(tmp_path / name)


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_folders_are_searched_and_keep_their_structure(tmp_path):
    tree(
        tmp_path / "in",
        "b.JPG",
        "a.png",
        "sub/a.png",
        "clip.mov",
        "scan.tif",
        "notes.txt",
        ".hidden.jpg",
        ".git/x.jpg",
    )
    found = find_media([tmp_path / "in"], tmp_path / "out")
    results = {str(m.path.relative_to(tmp_path / "in")): m.result.as_posix() for m in found}
    assert results == {
        "a.png": "a.png",
        "b.JPG": "b.JPG",
        "clip.mov": "clip.mov.mp4",
        "scan.tif": "scan.tif.jpg",
        "sub/a.png": "sub/a.png",
    }
    assert [m.path.name for m in found if m.is_video] == ["clip.mov"]


def test_equal_names_get_different_results(tmp_path):
    tree(tmp_path, "x/p/a.jpg", "y/p/a.jpg", "z/A.jpg", "a.jpg")
    inputs = [
        tmp_path / "x/p",
        tmp_path / "y/p",
        tmp_path / "z/A.jpg",
        tmp_path / "a.jpg",
        tmp_path / "a.jpg",
    ]
    results = [m.result.as_posix() for m in find_media(inputs, tmp_path / "out")]
    assert results == ["p/a.jpg", "p/a-2.jpg", "A.jpg", "a-2.jpg"]


def test_earlier_results_below_an_input_folder_are_no_inputs(tmp_path):
    tree(tmp_path / "in", "a.jpg", "out/a.jpg", "out/deep/b.jpg")
    assert [m.path.name for m in find_media([tmp_path / "in"], tmp_path / "in" / "out")] == ["a.jpg"]


def test_inputs_are_never_replaced(tmp_path):
    tree(tmp_path / "in", "a.jpg", "sub/b.jpg")
    with pytest.raises(UserError, match="both input and output"):
        find_media([tmp_path / "in"], tmp_path / "in")
    with pytest.raises(UserError, match="would replace an input"):
        find_media([tmp_path / "in" / "a.jpg"], tmp_path / "in")
    with pytest.raises(UserError, match="would replace an input"):
        find_media([tmp_path / "in" / "sub" / "b.jpg"], tmp_path / "in" / ".." / "in" / "sub")


def test_nothing_to_read_is_a_clear_mistake(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_media([tmp_path / "absent"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures or videos"):
        find_media([tmp_path / "empty"], tmp_path / "out")
    tree(tmp_path, "a.jpg", "file")
    with pytest.raises(UserError, match="is a file"):
        find_media([tmp_path / "a.jpg"], tmp_path / "file")


@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_a_video_comes_back(tmp_path, size):
    frames = [np.full((*size, 3), (20 + 20 * i, 200 - 20 * i, 90), np.uint8) for i in range(6)]
    with video_writer(tmp_path / "a.mp4", 12.5) as append:
        for frame in frames:
            append(frame)
    video = Video(tmp_path / "a.mp4")
    assert video.frames_per_second == pytest.approx(12.5) and video.frame_count == 6
    back = list(video)
    assert len(back) == 6
    for read, written in zip(back, frames, strict=True):
        assert abs(read.shape[0] - size[0]) <= 1 and abs(read.shape[1] - size[1]) <= 1  # odd sides lose a row
        assert np.abs(read.astype(int).mean((0, 1)) - written.mean((0, 1))).max() < 6


def test_an_interrupted_video_keeps_its_frames(tmp_path):
    with pytest.raises(KeyboardInterrupt), video_writer(tmp_path / "a.mp4", 10) as append:
        append(np.zeros((32, 32, 3), np.uint8))
        append(np.zeros((40, 32, 3), np.uint8))  # another size is fitted to the first
        raise KeyboardInterrupt
    assert [frame.shape for frame in Video(tmp_path / "a.mp4")] == [(32, 32, 3)] * 2
    with video_writer(tmp_path / "none.mp4", 10):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(UnreadableMedia, match="a.mp4"):
        list(Video(tmp_path / "a.mp4"))


def test_what_a_folder_has_besides_is_counted_and_links_are_followed(tmp_path, picture):
    inside, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for folder in (inside, elsewhere):
        folder.mkdir()
    write_image(elsewhere / "b.png", picture)
    write_image(inside / "a.png", picture)
    (inside / "a.png").rename(inside / "a")
    for name in ("1.heic", "2.HEIC", "notes.txt", ".DS_Store", "Thumbs.db"):
        (inside / name).write_bytes(b"")
    (inside / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(inside)
    counted = Counter()
    found = find_media([inside], tmp_path / "out", counted)
    assert [str(file.path.relative_to(inside)) for file in found] == ["a", "link/b.png"]
    assert counted == {".heic": 2, ".txt": 1}
    (inside / "a").unlink()
    (inside / "link").unlink()
    with pytest.raises(UserError, match=r"no pictures or videos in .*in; passed over: 2 \.heic, 1 \.txt"):
        find_media([inside], tmp_path / "out")
