"""No two results share a name, and a file system takes each."""

import os
from pathlib import Path

import numpy as np
import pytest

from engine.images.writing import write_image
from engine.predict.result_names import ResultNames, flat_picture_name, picture_name

PIXEL = np.zeros((1, 1, 3), np.uint8)


def results(folder, *wanted, reserved=()):
    names = ResultNames(folder, reserved)
    return [names.unused(Path(name)).as_posix() for name in wanted]


def test_equal_names_are_told_apart(tmp_path):
    assert results(tmp_path, "a.jpg", "a.jpg", "A.JPG", "b/a.jpg", "a-2.jpg") == [
        "a.jpg", "a-2.jpg", "A-3.JPG", "b/a.jpg", "a-2-2.jpg",
    ]  # fmt: skip


def test_unicodes_forms_of_one_name_are_told_apart(tmp_path):
    assert len(set(results(tmp_path, "é.jpg", "e\u0301.jpg"))) == 2


def test_a_file_is_never_a_folder_too(tmp_path):
    assert results(tmp_path, "a.jpg", "a.jpg/b.jpg", "a.jpg/c.jpg") == ["a.jpg", "a-2.jpg/b.jpg", "a-2.jpg/c.jpg"]
    assert results(tmp_path, "a.jpg/b.jpg", "a.jpg") == ["a.jpg/b.jpg", "a-2.jpg"]
    assert results(tmp_path, "found.json/b.jpg", reserved=["found.json"]) == ["found-2.json/b.jpg"]


LONG = [
    *(character * (255 // len(character.encode())) for character in ("x", "é", "猫", "🐈")),
    "x" * 251 + ".jpg", "y" * 250 + ".tif.", "." * 255, os.fsdecode(b"\xe9" * 255), "x." + "y" * 253,
]  # fmt: skip


@pytest.mark.parametrize("name", LONG, ids=ascii)
def test_names_at_the_limit_are_shortened_and_stay_apart(tmp_path, name):
    (tmp_path / name).write_bytes(b"")  # the file system takes it
    other = name[:-6] + "ab" + name[-4:]
    wanted = [picture_name(Path(each)) for each in (name, name, other)]
    places = results(tmp_path / "out", *wanted)
    assert len(set(places)) == 3
    for place in places:
        write_image(tmp_path / "out" / place, PIXEL)
    assert len(os.listdir(tmp_path / "out")) == 3


def test_paths_at_the_limit_are_shortened_and_stay_apart(tmp_path):
    deep = "/".join(["x" * 200] * 20)
    places = results(tmp_path / "out", f"{deep}/a.jpg", f"{deep}/b/a.jpg")
    assert len(set(places)) == 2 and all(place.endswith(".jpg") for place in places)
    for place in places:
        write_image(tmp_path / "out" / place, PIXEL)


def test_pictures_of_many_folders_lie_in_one(tmp_path):
    given = ["a/x.jpg", "b/x.jpg", "a_x.png", "a/x.png", "/data/a/x.jpg", "../x.jpg", ".x.jpg", "l\udce9.png", "x"]
    names = ResultNames(tmp_path)
    places = [str(names.unused(flat_picture_name(name))) for name in given]
    assert places[:3] == ["a_x.jpg", "b_x.jpg", "a_x-2.jpg"] and len(set(places)) == len(given)
    assert all("/" not in place and place.isprintable() and not place.startswith(".") for place in places)
