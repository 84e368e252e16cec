"""ImageNet's flat validation folder: each image has exactly one label, whichever list has them, or it is said which
has not."""

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from classification.index.index import open_index
from classification.index.split import UnsortedImages
from classification.sets.find import find_split
from classification.sets.imagenet import CAFFE, DEVKIT, KAGGLE, LISTS, TENSORFLOW
from classification.sets.mat_file import NotUnderstood, read_table
from engine.errors import UserError
from tests.classification.index.archives import make_tar, make_zip

WNIDS = ["n01440764", "n01443537", "n09246464"]
LABELS = [2, 0, 1, 1, 2, 0]  # of the validation images 1 to 6


def jpeg(number):
    data = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), number, np.uint8)).save(data, "JPEG")
    return data.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def image(number):
    return f"ILSVRC2012_val_{number:08}"


DEVKIT_IDS = {"n01440764": 2, "n01443537": 1, "n09246464": 3, "n00000004": 4, "n00001740": 1001}  # one of many


def element(kind, data):
    small = 0 < len(data) <= 4
    head = struct.pack("<2H", kind, len(data)) if small else struct.pack("<2I", kind, len(data))
    return head + data + bytes(-(len(data) + len(head)) % 8)


def matrix(kind, sizes, data, name=b""):
    parts = (
        element(6, struct.pack("<2I", kind, 0)) + element(5, struct.pack(f"<{len(sizes)}i", *sizes)) + element(1, name)
    )
    return element(14, parts + data)


def meta_mat(packed=True):
    """The devkit's meta.mat of a few classes: a struct array as MATLAB saves it."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "num_children", "children")
    cells = b""
    for wnid, number in DEVKIT_IDS.items():
        words = {"n01443537": "goldfish, 金魚"}.get(wnid, "words")
        children = 3 if number > 1000 else 0
        of_id = element(9, struct.pack("<d", number)) if number == 2 else element(4, struct.pack("<H", number))
        cells += matrix(6, (1, 1), of_id)
        cells += matrix(4, (1, len(wnid)), element(16, wnid.encode()))
        cells += matrix(4, (1, len(words)), element(4, words.encode("utf-16-le")))
        cells += matrix(6, (1, 1), element(2, bytes([children])))
        cells += matrix(6, (1, children), element(9, struct.pack(f"<{children}d", *range(children))))
    names = b"".join(name.encode().ljust(32, b"\0") for name in fields)
    table = element(5, struct.pack("<i", 32)) + element(1, names) + cells
    content = matrix(2, (len(DEVKIT_IDS), 1), table, b"synsets")
    if packed:
        content = zlib.compress(content)
        content = struct.pack("<2I", 15, len(content)) + content
    other = matrix(6, (1, 1), element(9, struct.pack("<d", 1)), b"other")
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + other + content


def text(name, labels=LABELS):
    """A list as its publisher writes it; Kaggle's and Caffe's in no order."""
    order = [4, 1, 6, 2, 5, 3]
    if name == KAGGLE:
        lines = [f"{image(n)},{WNIDS[labels[n - 1]]} 85 1 499 272 {WNIDS[labels[n - 1]]} 1 1 2 2 " for n in order]
        return "\n".join(["ImageId,PredictionString", *lines, ""])
    if name == DEVKIT:
        return "".join(f"{DEVKIT_IDS[WNIDS[label]]}\n" for label in labels)
    if name == TENSORFLOW:
        return "".join(f"{WNIDS[label]}\n" for label in labels)
    return "".join(f"{image(n)}.JPEG {labels[n - 1]}\n" for n in order)


@pytest.fixture
def root(tmp_path):
    for wnid in WNIDS:
        put(tmp_path / "imagenet" / "train" / wnid / f"{wnid}_1.JPEG", jpeg(0))
    for number in range(1, 7):
        put(tmp_path / "imagenet" / "val" / f"{image(number)}.JPEG", jpeg(20 * number))
    put(tmp_path / "imagenet" / "val" / "readme.txt", "")
    return tmp_path / "imagenet"


def check(root, cache, source):
    split = find_split(root, "val")
    assert split.source == str(source) and split.classes == find_split(root, "train").classes == WNIDS
    for index in (open_index(split, cache), open_index(split, cache)):
        assert [index.name(i) for i in range(6)] == [f"{image(number)}.JPEG" for number in range(1, 7)]
        assert index.labels.tolist() == LABELS
        assert [round(index.read(i).mean() / 20) for i in range(6)] == [1, 2, 3, 4, 5, 6]
        assert index.passed_over.get(".txt", 0) >= 1


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("place", [".", "val", "caffe_ilsvrc12", "ILSVRC2012_devkit_t12/data"])
def test_each_list_is_found_wherever_it_lies(root, tmp_path, name, place):
    put(root / place / name, text(name))
    put(root / place / "meta.mat", meta_mat())
    check(root, tmp_path / "cache", root / place / name)


@pytest.mark.parametrize("top", ["", "ILSVRC/Data/CLS-LOC"])
def test_what_kaggle_unpacks_to(root, tmp_path, top):
    kaggle = tmp_path / "kaggle"
    (kaggle / "ILSVRC" / "Data").mkdir(parents=True)
    root.rename(kaggle / "ILSVRC" / "Data" / "CLS-LOC")
    put(kaggle / KAGGLE, text(KAGGLE))
    check(kaggle / top, tmp_path / "cache", kaggle / KAGGLE)


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("name", LISTS)
def test_in_an_archive(root, tmp_path, make, name):
    put(root / name, text(name))
    put(root / "meta.mat", meta_mat())
    path = make(root, tmp_path / "archive", top="imagenet/")
    check(path, tmp_path / "cache", path / "imagenet" / name)


def test_class_folders_come_first_and_one_list_before_another(root, tmp_path):
    for name in LISTS:
        put(root / name, text(name))
    assert find_split(root, "val").list_name == KAGGLE
    (root / KAGGLE).unlink()
    assert find_split(root, "val").list_name == TENSORFLOW
    for number in range(1, 7):
        put(root / "val" / WNIDS[LABELS[number - 1]] / f"{number}.JPEG", jpeg(number))
    assert find_split(root, "val").source == str(root / "val")


def test_a_changed_list_or_image_makes_another_index(root, tmp_path):
    put(root / CAFFE, text(CAFFE))

    def labels():
        for path in (root / CAFFE, root / "val"):
            os.utime(path, (time.time() - 1000,) * 2)
        return open_index(find_split(root, "val"), tmp_path / "cache").labels.tolist()

    assert labels() == LABELS
    put(root / CAFFE, text(CAFFE, LABELS[::-1]))
    assert labels() == LABELS[::-1]


def refused(root, tmp_path, name, content):
    put(root / name, content)
    with pytest.raises(UserError) as error:
        open_index(find_split(root, "val"), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []
    return str(error.value).replace(str(root), "ROOT")


@pytest.mark.parametrize("name", [KAGGLE, CAFFE])
def test_missing_doubled_and_unknown_labels_are_named(root, tmp_path, name):
    lines = text(name).splitlines(keepends=True)
    shift = name == KAGGLE  # its first line is a head
    said = refused(root, tmp_path, name, "".join(lines[:-1]))
    assert said == f"ROOT/{name} has no label for 1 of the images in ROOT/val: {image(3)}.JPEG"
    said = refused(root, tmp_path, name, "".join([*lines, lines[1 + shift]]))
    assert said.startswith(f"ROOT/{name}, line {7 + shift}: {image(1)}.JPEG has a label already, in line {2 + shift}")
    said = refused(root, tmp_path, name, "".join([*lines, lines[-1].replace("003", "013")]))
    assert said.startswith(f"ROOT/{name}, line {7 + shift}: there is no image {image(13)}")
    wrong = "".join(lines).replace(f"{WNIDS[0]} ", "n99999999 ").replace(".JPEG 0", ".JPEG 3")
    said = refused(root, tmp_path, name, wrong)
    assert said.startswith(f"ROOT/{name}, line {3 + shift}: '{image(6)}") and "none of the 3 classes of train" in said
    said = refused(root, tmp_path, name, "".join([*lines, "anything else\n"]))
    assert said.startswith(f"ROOT/{name}, line {7 + shift}: 'anything else' is no image")
    if name == KAGGLE:
        said = refused(root, tmp_path, name, "".join(lines).replace(f"{WNIDS[2]} 1 1 2 2", f"{WNIDS[1]} 1 1 2 2"))
        assert "line 3" in said and "boxes of one class" in said


def test_lines_in_the_order_of_the_images(root, tmp_path):
    lines = text(TENSORFLOW).splitlines(keepends=True)
    said = refused(root, tmp_path, TENSORFLOW, "".join(lines[:-1]))
    assert said == f"ROOT/{TENSORFLOW} has no label for 1 of the images in ROOT/val: {image(6)}.JPEG"
    said = refused(root, tmp_path, TENSORFLOW, "".join([*lines, lines[0]]))
    assert said == f"ROOT/{TENSORFLOW}, line 7: there is no image with the number 7 in ROOT/val"
    (root / "val" / f"{image(2)}.JPEG").unlink()
    said = refused(root, tmp_path, TENSORFLOW, "".join(lines))
    assert said == f"ROOT/{TENSORFLOW}, line 2: there is no image with the number 2 in ROOT/val"


def test_the_devkits_numbers_are_those_of_its_meta_mat(root, tmp_path):
    path = f"ILSVRC2012_devkit_t12/data/{DEVKIT}"
    lines = text(DEVKIT).splitlines(keepends=True)
    assert lines[0] == "3\n" and DEVKIT_IDS[WNIDS[2]] == 3
    put((root / path).with_name("meta.mat"), meta_mat())
    said = refused(root, tmp_path, path, "".join([*lines, "3\n"]))
    assert said == f"ROOT/{path}, line 7: there is no image with the number 7 in ROOT/val"
    for number in ("4", "1001", "x", "-1", "²"):  # another class of the devkit; none of it
        said = refused(root, tmp_path, path, "".join([lines[0], number + "\n", *lines[2:]]))
        assert said.startswith(f"ROOT/{path}, line 2: '{number}' names none of the 3 classes of train")
    (root / path).with_name("meta.mat").unlink()
    assert refused(root, tmp_path, path, "".join(lines)).startswith(
        "there is no ROOT/ILSVRC2012_devkit_t12/data/meta.mat"
    )


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_meta_mat_is_refused_or_read_as_it_was(packed):
    content = meta_mat(packed)
    whole = read_table(content, "synsets")
    assert [(row["ILSVRC2012_ID"], row["WNID"]) for row in whole] == [(n, wnid) for wnid, n in DEVKIT_IDS.items()]
    assert [row["num_children"] for row in whole] == [0, 0, 0, 0, 3] and whole[1]["words"] == "goldfish, 金魚"
    assert whole[4]["children"] is None
    random, refusals = np.random.default_rng(0), 0
    for size in range(len(content)):
        with pytest.raises(NotUnderstood):
            read_table(content[:size], "synsets")
    for _ in range(300):
        damaged = bytearray(content)
        damaged[int(random.integers(128, len(content)))] ^= 1 << int(random.integers(8))
        try:
            found = read_table(bytes(damaged), "synsets")
        except NotUnderstood:
            refusals += 1
        else:
            assert len(found) == 5 and (not packed or found == whole)
    assert refusals > 50


def test_without_a_list_it_is_said_what_was_looked_for(root):
    with pytest.raises(UnsortedImages) as error:
        find_split(root, "val")
    for words in ("val has 6 images and no class folders", *LISTS, "CIFAR-10", "cifar-10-python.tar.gz"):
        assert words in str(error.value)


def test_the_classes_are_those_of_train(root):
    put(root / CAFFE, text(CAFFE))
    for wnid in WNIDS:
        (root / "train" / wnid / f"{wnid}_1.JPEG").unlink()
        (root / "train" / wnid).rmdir()
    with pytest.raises(UserError, match=r"val\.txt: the classes are the folders of .*train, and there are none"):
        find_split(root, "val")


def test_two_files_of_one_image_are_an_error(root, tmp_path):
    put(root / "val" / f"{image(2)}.png", jpeg(1))
    said = refused(root, tmp_path, CAFFE, text(CAFFE))
    assert said.startswith(f"ROOT/val: a list cannot tell {image(2)}.JPEG from {image(2)}.png")
