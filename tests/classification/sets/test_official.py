"""CIFAR-10, CIFAR-100 and STL-10 in their published forms are one set each, and what is wrong with a file is said."""

import os
import pickle
import re
import time

import numpy as np
import pytest

from classification.index.index import open_index
from classification.sets import forms, official
from classification.sets.find import find_split
from engine.errors import UserError
from engine.images.reading import DecodedImage
from tests.classification.sets.official_files import (
    CIFAR10,
    CIFAR100,
    STL10,
    Python2Pickle,
    pack,
    small_forms,
    write_set,
)

SETS = {  # title: (side, classes, images of each split in the small files)
    "CIFAR-10": (32, CIFAR10, {"train": 20, "test": 4}),
    "CIFAR-100": (32, CIFAR100, {"train": 20, "test": 4}),
    "STL-10": (96, STL10, {"train": 2, "test": 3}),
}
FORMS = [
    ("CIFAR-10", "binary"),
    ("CIFAR-10", "python"),
    ("CIFAR-100", "binary"),
    ("CIFAR-100", "python"),
    ("STL-10", "binary"),
]


PUBLISHED = forms.FORMS


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_forms(monkeypatch)


def images(title):
    side, classes, counts = SETS[title]
    random = np.random.default_rng(0)
    pixels = {split: random.integers(0, 256, (count, side, side, 3), np.uint8) for split, count in counts.items()}
    labels = {split: random.permutation(len(classes))[:count] if count <= len(classes) else
              np.resize(random.permutation(len(classes)), count) for split, count in counts.items()}  # fmt: skip
    return pixels, labels


def made(title, form, folder):
    pixels, labels = images(title)
    return write_set(title, form, folder, pixels, labels)


def old(path):
    for one in [path, *path.rglob("*")]:
        os.utime(one, (time.time() - 1000,) * 2)
    return path


@pytest.mark.parametrize(("title", "form"), FORMS)
@pytest.mark.parametrize("place", ["the folder", "above it", "packed", "packed in a folder"])
def test_every_form_gives_the_same_images(tmp_path, title, form, place):
    folder = old(made(title, form, tmp_path / "sets"))
    root = {"the folder": folder, "above it": tmp_path / "sets"}.get(place)
    if root is None:
        (tmp_path / "packed").mkdir()
        name = next(one.archive for one in forms.FORMS if one.folder == folder.name)
        root = pack(
            folder, tmp_path / "packed" / (name if "in a folder" in place else "any.name"), last=["batches.meta"]
        )
        root = root.parent if "in a folder" in place else root
    pixels, labels = images(title)
    for name, split in (("train", "train"), ("val", "test"), ("test", "test")):
        found = find_split(root, name)
        assert found.classes == SETS[title][1]
        for index in (open_index(found, tmp_path / "cache"), open_index(found, tmp_path / "cache")):
            assert np.array_equal(index.labels, labels[split])
            assert all(np.array_equal(index.read(i), pixels[split][i]) for i in range(len(index)))
            assert len(index) == len(pixels[split]) and index.passed_over == {}
            again = pickle.loads(pickle.dumps(index))
            assert np.array_equal(again.read(1), pixels[split][1]) and not again.of_files


def test_names_are_those_of_the_set(tmp_path):
    names = {}
    for title, form in FORMS:
        folder = made(title, form, tmp_path / form / title)
        index = open_index(find_split(folder, "train"), tmp_path / "cache")
        names[title, form] = index.name(1)
        assert index.path(1) == folder / index.name(1)
    assert names == {
        ("CIFAR-10", "binary"): "data_batch_1/00001",
        ("CIFAR-10", "python"): "data_batch_1/photo_s_000001.png",
        ("CIFAR-100", "binary"): "train/00001",
        ("CIFAR-100", "python"): "train/photo_s_000001.png",
        ("STL-10", "binary"): "train/00001",
    }


def test_an_image_is_a_view_of_the_cached_pixels_and_cannot_be_changed(tmp_path):
    folder = made("CIFAR-10", "binary", tmp_path)
    index = open_index(find_split(folder, "train"), tmp_path / "cache")
    image = index.open(7)
    assert isinstance(image, DecodedImage) and not image.pixels.flags.writeable
    base = image.pixels
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.shape == (20, 32, 32, 3) and np.shares_memory(base, image.pixels)
    before = index.read(7)
    index.read(7)[:] = 0
    assert np.array_equal(index.read(7), before)


def test_the_files_are_read_once(tmp_path, monkeypatch):
    folder = old(made("STL-10", "binary", tmp_path))
    open_index(find_split(folder, "val"), tmp_path / "cache")
    monkeypatch.setattr(official.OfficialSet, "read", None)
    assert len(open_index(find_split(folder, "val"), tmp_path / "cache")) == 3
    monkeypatch.undo()
    small_forms(monkeypatch)
    content = (folder / "test_X.bin").read_bytes()
    (folder / "test_X.bin").write_bytes(content[::-1])
    assert open_index(find_split(folder, "val"), tmp_path / "cache").read(2)[0, 0, 0] == content[-1 - 2 * 3 * 96 * 96]


def test_damaged_pixels_in_the_cache_are_read_anew(tmp_path):
    folder = old(made("CIFAR-10", "binary", tmp_path))
    expected = open_index(find_split(folder, "val"), tmp_path / "cache").read(3).copy()
    (pixels,) = (tmp_path / "cache").rglob("pixels.npy")
    data = pixels.read_bytes()
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        pixels.write_bytes(damaged)
        assert np.array_equal(open_index(find_split(folder, "val"), tmp_path / "cache").read(3), expected)
        assert pixels.read_bytes() == data


def test_published_sizes():
    """Records and their numbers by the sets' own pages."""
    sizes = {form.folder: {**form.splits["train"], **form.splits["test"]} for form in PUBLISHED}
    batches = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    assert sizes["cifar-10-batches-py"] == dict.fromkeys(batches, 10_000)
    assert sizes["cifar-10-batches-bin"] == dict.fromkeys([f"{name}.bin" for name in batches], 10_000)
    assert sizes["cifar-100-binary"] == {"train.bin": 50_000, "test.bin": 10_000}
    assert sizes["cifar-100-python"] == {"train": 50_000, "test": 10_000}
    assert sizes["stl10_binary"] == {"train_X.bin": 5_000, "test_X.bin": 8_000}
    with pytest.raises(UserError, match=r"30,729,999 bytes, and the official file 30,730,000: 10,000 records of 3,073"):
        PUBLISHED[0].images_of(bytes(30_729_999), b"", "data_batch_1.bin", 10_000)


# What is wrong


def wrong_file(tmp_path, title, form, name, content, split="train"):
    folder = made(title, form, tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content((folder / name).read_bytes()))
    with pytest.raises(UserError) as error:
        open_index(find_split(folder, split), tmp_path / "cache")
    assert str(folder / name) in str(error.value)
    assert list((tmp_path / "cache").glob("*")) == []
    return str(error.value).replace(str(folder), "FOLDER")


def test_a_file_of_another_size_is_named_with_what_it_should_have(tmp_path):
    said = wrong_file(tmp_path, "CIFAR-10", "binary", "data_batch_3.bin", lambda data: data[:-1])
    assert said.startswith("FOLDER/data_batch_3.bin has 12,291 bytes, and the official file 12,292: 4 records of 3,073")


@pytest.mark.parametrize(
    ("title", "form", "name", "change", "said"),
    [
        ("CIFAR-100", "binary", "train.bin", lambda data: data + b"1", "61,481 bytes.*61,480: 20 records of 3,074"),
        ("STL-10", "binary", "train_X.bin", lambda data: data[:100], "100 bytes.*55,296: 2 records of 27,648"),
        ("STL-10", "binary", "train_y.bin", lambda data: data[:1], "1 bytes.*2: 2 records of 1 bytes"),
        ("STL-10", "binary", "train_X.bin", None, "there is no file"),
        ("CIFAR-10", "binary", "data_batch_5.bin", None, "there is no file"),
        ("CIFAR-10", "python", "data_batch_5", None, "there is no file"),
        ("CIFAR-10", "binary", "batches.meta.txt", lambda data: b"cat\ndog\n", "names 2 classes, and CIFAR-10 has 10"),
        ("CIFAR-100", "python", "meta", lambda data: Python2Pickle().dumps({}), "no list of texts 'fine_label_names'"),
        ("CIFAR-10", "python", "data_batch_1", lambda data: data[:-20], "cut short or damaged"),
        ("CIFAR-10", "python", "data_batch_1", lambda data: b"", "none of the official files"),
        ("CIFAR-10", "python", "data_batch_1", lambda data: Python2Pickle().dumps([1]), "no dictionary"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, title, form, name, change, said):
    assert re.search(said, wrong_file(tmp_path, title, form, name, change))


def test_labels_out_of_range_are_named(tmp_path):
    def change(data):
        return data[: 2 * 3073] + b"\x0b" + data[2 * 3073 + 1 :]

    said = wrong_file(tmp_path, "CIFAR-10", "binary", "data_batch_2.bin", change)
    assert said.startswith("FOLDER/data_batch_2.bin, image 2: its class 11 is not in 0..9")
    (tmp_path / "stl").mkdir()
    folder = made("STL-10", "binary", tmp_path / "stl")
    (folder / "train_y.bin").write_bytes(b"\x01\x00")
    with pytest.raises(UserError, match="train_X.bin, image 1: its class -1 is not in 0..9"):
        open_index(find_split(folder, "train"), tmp_path / "cache")


@pytest.mark.parametrize("key", ["labels", "filenames", "data"])
def test_a_pickle_without_all_of_its_images_is_named(tmp_path, key):
    pixels, labels = images("CIFAR-10")
    batch = {
        "labels": labels["train"][:4].tolist(),
        "filenames": ["1.png"] * 4,
        "data": pixels["train"][:4].reshape(4, -1),
    }
    batch[key] = batch[key][:3]
    wrong_file(tmp_path, "CIFAR-10", "python", "data_batch_1", lambda data: Python2Pickle().dumps(batch))


class Payload:
    def __init__(self, argument):
        self.argument = argument

    def __reduce__(self):
        return os.mkdir, (self.argument,)


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_1"])
def test_a_pickle_runs_nothing(tmp_path, name):
    mark = tmp_path / "it_ran"
    said = wrong_file(tmp_path, "CIFAR-10", "python", name, lambda data: pickle.dumps(Payload(str(mark)), protocol=2))
    assert "must not run code" in said and not mark.exists()


@pytest.mark.parametrize("packing", ["gz", "cut", "flipped"])
def test_a_damaged_archive_is_said(tmp_path, packing):
    folder = made("CIFAR-10", "binary", tmp_path)
    path = pack(folder, tmp_path / "x.tar.gz")
    data = bytearray(path.read_bytes())
    if packing == "gz":
        (folder / "data_batch_2.bin").unlink()
        pack(folder, path)
    elif packing == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.tar\.gz(: CRC check failed.*damaged| lacks data_batch_2| is cut off)"):
        open_index(find_split(path, "train"), tmp_path / "cache")


def test_several_sets_below_one_folder_are_not_guessed_at(tmp_path):
    made("CIFAR-10", "binary", tmp_path)
    made("CIFAR-10", "python", tmp_path)
    assert find_split(tmp_path, "train").form.folder == "cifar-10-batches-bin"  # forms of one set: any of them
    made("STL-10", "binary", tmp_path)
    with pytest.raises(UserError, match="holds several sets .*cifar-10-batches-bin.*stl10_binary.*: name one"):
        find_split(tmp_path, "train")
    assert find_split(tmp_path / "stl10_binary", "train").form.title == "STL-10"
    with pytest.raises(UserError, match="STL-10 in .* has the splits train and val .*, not 'dev'"):
        find_split(tmp_path / "stl10_binary", "dev")
