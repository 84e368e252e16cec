"""Which files are taken for pictures: what the reader reads, told by suffix or content; the others are counted."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image, features

from engine.images.reading import read_image
from engine.predict.image_files import (
    IMAGE_SUFFIXES,
    describe_passed_over,
    is_clutter,
    is_picture,
    kind_passed_over,
    perhaps_pictures,
)

WRITTEN = {".jp2": "jpg_2000", ".avif": "avif", ".webp": "webp"}  # what Pillow must have been built with
WRITTEN |= dict.fromkeys(".jfif .jpe .ppm .tif .bmp .gif .qoi .tga .mpo".split())


@pytest.fixture
def picture():
    return Image.fromarray(np.tile(np.arange(0, 240, 5, np.uint8)[:, None, None], (1, 40, 3)))


@pytest.mark.parametrize("suffix", WRITTEN)
def test_every_suffix_that_is_taken_is_read(tmp_path, picture, suffix):
    if WRITTEN[suffix] and not features.check(WRITTEN[suffix]):
        pytest.skip(f"this Pillow has no {WRITTEN[suffix]}")
    picture.save(tmp_path / f"a{suffix}")
    os.rename(tmp_path / f"a{suffix}", path := tmp_path / f"a{suffix.upper()}")
    assert is_picture(path) and read_image(path).shape == (48, 40, 3)


def test_what_the_reader_does_not_read_is_not_taken():
    assert not IMAGE_SUFFIXES & {".pfm", ".heic.jpg", ".svg", ".eps", ".mpg", ".h5", ".ico", ".txt", ""}
    assert {".jpg", ".jpeg", ".png"} <= IMAGE_SUFFIXES


@pytest.mark.parametrize(
    "name", ["4", "IMG.2024.05", "Mt. Fuji at dawn", "photo.", "a long name. with a long end of it"]
)
def test_without_a_suffix_the_content_tells(tmp_path, picture, name):
    picture.save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", path := tmp_path / name)
    assert is_picture(path)
    path.write_bytes(b"BMW, PNG and GIF are words\n")
    assert not is_picture(path) and kind_passed_over(name) == "without suffix"
    path.write_bytes(b"")
    assert not is_picture(path)


def test_no_pipe_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not is_picture(tmp_path / "pipe")


def test_a_download_that_broke_off_is_no_picture(tmp_path, picture):
    picture.save(tmp_path / "a.jpg")
    os.rename(tmp_path / "a.jpg", path := tmp_path / "a.jpg.crdownload")
    assert not is_picture(path) and kind_passed_over(path.name) == ".crdownload"


def test_what_systems_leave_is_passed_over_in_silence():
    for name in (".DS_Store", "._a.jpg", "Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"):
        assert is_clutter(name)
    assert not is_clutter("thumbs.jpg")


def test_texts_beside_pictures_are_told_from_pictures():
    passed_over = Counter({".txt": 900, ".heic": 3, "without suffix": 1, ".crdownload": 20, ".\udce9": 1})
    assert perhaps_pictures(passed_over) == 24
    assert describe_passed_over(passed_over) == r"900 .txt, 20 .crdownload, 3 .heic, 1 .\xe9, 1 without suffix"
    assert describe_passed_over({f".{n}": 1 for n in "abcdefghijklm"}).endswith("1 .j, 3 others")
    assert describe_passed_over({}) == ""


def test_heic_is_taken_where_pillow_heif_is_installed(tmp_path):
    """As the plugin registers itself; another one in its place, since it is no dependency."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', object, lambda prefix: False)\n"
        "    Image.register_extensions('HEIF', ['.heic', '.heif'])\n"
    )
    code = "from engine.predict.image_files import IMAGE_SUFFIXES as s; print('.heic' in s, '.heif' in s)"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert done.stdout.split() == [b"True", b"True"], done.stderr.decode()
