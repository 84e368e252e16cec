"""Class folders of any data set: which classes there are, in which order, and whose images are whose."""

import io
import os
import pickle
import unicodedata

import pytest
from PIL import Image

from classification.index import class_folders
from classification.index.class_folders import IN_NO_CLASS, find_split
from classification.index.index import open_index
from classification.index.split import SplitNotFound, UnsortedImages
from engine.errors import UserError
from engine.predict.image_files import IMAGE_SUFFIXES


def put(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def read(split, tmp_path):
    index = open_index(split, tmp_path / "cache")
    return {index.name(i): index.label(i) for i in range(len(index))}


def test_classes_are_the_sorted_folders_and_those_of_train(tmp_path):
    put(tmp_path / "train", ["tulip/b.JPG", "tulip/a.png", "aster/1.jpeg", "zinnia/2.webp", "aster/.hidden.jpg"])
    put(tmp_path / "train", [".thumbs/1.jpg", "empty/notes.txt"])
    put(tmp_path / "val", ["zinnia/1.jpg", "aster/7.jpg"])
    train, val = find_split(tmp_path, "train"), find_split(tmp_path, "val")
    assert train.classes == val.classes == ["aster", "empty", "tulip", "zinnia"]
    assert read(train, tmp_path) == {"aster/1.jpeg": 0, "tulip/a.png": 2, "tulip/b.JPG": 2, "zinnia/2.webp": 3}
    assert read(val, tmp_path) == {"aster/7.jpg": 0, "zinnia/1.jpg": 3}


def test_names_mean_nothing_but_themselves(tmp_path):
    """Letters, and names that a data set with an order of its own has, are classes like any other."""
    put(tmp_path / "train", ["a/abbey/1.jpg", "a/2.jpg", "desert_road/1.jpg", "desert_sand/1.jpg", "desert-sand/1.jpg"])
    split = find_split(tmp_path, "train")
    assert split.classes == ["a", "desert-sand", "desert_road", "desert_sand"]
    assert read(split, tmp_path)["a/abbey/1.jpg"] == 0


def test_a_set_one_folder_further_down_is_found_and_two_are_not_guessed_at(tmp_path):
    put(tmp_path, ["flowers/train/aster/1.jpg"])
    assert find_split(tmp_path, "train").image_root == tmp_path / "flowers" / "train"
    put(tmp_path, ["birds/train/robin/1.jpg"])
    with pytest.raises(UserError, match="birds, .*flowers each have a folder 'train'"):
        find_split(tmp_path, "train")


def test_what_is_not_there_or_does_not_fit_says_so(tmp_path):
    with pytest.raises(SplitNotFound, match="does not exist"):
        find_split(tmp_path / "absent", "train")
    put(tmp_path, ["train/aster/1.jpg", "train/tulip/1.jpg", "val/tulips/1.jpg", "val/aster/1.jpg"])
    with pytest.raises(SplitNotFound, match="no class folders test/<class>"):
        find_split(tmp_path, "test")
    with pytest.raises(SplitNotFound, match="only for 'auto'"):
        find_split(tmp_path, "train", "256")
    with pytest.raises(UserError, match=r"that .*train lacks: tulips\. val in turn has no folder for: tulip\."):
        find_split(tmp_path, "val")


def png():
    data = io.BytesIO()
    Image.new("RGB", (2, 2)).save(data, "PNG")
    return data.getvalue()


def test_what_is_no_image_is_counted(tmp_path):
    put(tmp_path / "train", ["aster/1.heic", "aster/2.HEIC", "aster/3.jfif", "aster/deep/4.txt", "aster/.DS_Store"])
    put(
        tmp_path / "train",
        ["aster/Thumbs.db", "tulip/5.jpg", "tulip/6", "__MACOSX/aster/._1.jpg", "stray.jpg", "a.csv"],
    )
    (tmp_path / "train" / "tulip" / "7").write_bytes(png())
    split = find_split(tmp_path, "train")
    assert split.classes == ["aster", "tulip"]
    assert read(split, tmp_path) == {"aster/3.jfif": 0, "tulip/5.jpg": 1, "tulip/7": 1}
    counted = {".heic": 2, ".txt": 1, "without suffix": 1, IN_NO_CLASS: 1}
    for index in (open_index(split, tmp_path / "cache"), open_index(split, tmp_path / "cache")):
        assert index.passed_over == pickle.loads(pickle.dumps(index)).passed_over == counted
    (tmp_path / "train" / "aster" / "3.jfif").unlink()
    for name in ("5.jpg", "7"):
        (tmp_path / "train" / "tulip" / name).unlink()
    with pytest.raises(UserError, match=r"no images in its class folders; passed over: 2 \.heic, 1 \.txt, 1 images in"):
        open_index(split, tmp_path / "cache")


def test_other_suffixes_make_another_index(tmp_path, monkeypatch):
    """A plugin that comes, or a Pillow without one, changes what the same folders hold."""
    put(tmp_path / "train", ["aster/1.heic", "aster/2.jpg"])
    split = find_split(tmp_path, "train")
    before = split.key()
    monkeypatch.setattr(class_folders, "IMAGE_SUFFIXES", IMAGE_SUFFIXES | {".heic"})
    assert split.key() != before


def test_a_class_has_one_name_whatever_its_folders_form(tmp_path):
    """Archives of macOS have decomposed names; others have names that are no UTF-8, or that have a line break."""
    for split, cafe in (("train", unicodedata.normalize("NFD", "café")), ("val", "café")):
        put(tmp_path / split, [f"{cafe}/1.jpg", os.fsdecode(b"chambre_\xe9/1.jpg"), "bed\nroom/1.jpg"])
    train, val = find_split(tmp_path, "train"), find_split(tmp_path, "val")
    assert train.classes == val.classes == ["bed\\nroom", "café", "chambre_\\xe9"]
    for split in (train, val):
        index = open_index(split, tmp_path / "cache")
        assert sorted(index.labels.tolist()) == [0, 1, 2] and all(index.path(i).exists() for i in range(3))
        again = open_index(split, tmp_path / "cache")
        assert [again.name(i) for i in range(3)] == [index.name(i) for i in range(3)]


@pytest.mark.parametrize(
    "folders", [(unicodedata.normalize("NFD", "café"), "café"), (os.fsdecode(b"caf\xe9"), r"caf\xe9")]
)
def test_two_folders_of_one_name_are_an_error_that_shows_the_difference(tmp_path, folders):
    put(tmp_path / "train", [f"{folder}/1.jpg" for folder in folders])
    with pytest.raises(UserError, match="are both the class caf.*; keep one") as error:
        find_split(tmp_path, "train")
    first, second = str(error.value).split(": the folders ")[1].split(" are both")[0].split(" and ")
    assert first != second and (first + second).isascii()


@pytest.mark.parametrize("train, val", [("Cat", "cat"), ("living room", "living_room"), ("cat", "cat ")])
def test_names_that_nearly_agree_are_shown_beside_each_other(tmp_path, train, val):
    put(tmp_path, [f"train/{train}/1.jpg", f"val/{val}/1.jpg"])
    with pytest.raises(UserError, match=f"Nearly the same: '{val}' and '{train}'"):
        find_split(tmp_path, "val")


def test_a_level_too_many_is_not_taken_for_one_class(tmp_path):
    put(tmp_path, ["train/images/aster/1.jpg", "train/images/tulip/1.jpg", "val/images/aster/1.jpg"])
    for split in ("train", "val"):
        with pytest.raises(UserError, match="one class folder alone, images, with the folders aster, tulip"):
            find_split(tmp_path, split)
    put(tmp_path, ["train/images/1.jpg"])
    assert find_split(tmp_path, "train").classes == ["images"]
    put(tmp_path, ["one/train/aster/1.jpg", "one/val/aster/1.jpg"])
    assert find_split(tmp_path / "one", "train").classes == ["aster"]


def test_images_in_no_class_folder_are_an_error(tmp_path):
    put(tmp_path, ["train/aster/1.jpg", "val/1.jpg", "val/2.jpg", "val/notes.txt"])
    with pytest.raises(UnsortedImages, match="val has 2 images and no class folders"):
        find_split(tmp_path, "val")


def test_linked_class_folders_are_read_and_circles_named(tmp_path):
    put(tmp_path, ["pool/aster/1.jpg", "train/tulip/1.jpg"])
    (tmp_path / "train" / "aster").symlink_to(tmp_path / "pool" / "aster")
    (tmp_path / "train" / "gone").symlink_to(tmp_path / "nowhere")
    split = find_split(tmp_path, "train")
    assert split.classes == ["aster", "tulip"] and len(read(split, tmp_path)) == 2
    (tmp_path / "pool" / "aster" / "up").symlink_to(tmp_path / "train")
    with pytest.raises(UserError, match="nested too deeply; does a link point back up"):
        read(split, tmp_path)
    (tmp_path / "pool" / "aster" / "up").unlink()
    (tmp_path / "pool" / "aster" / "me").symlink_to("me")
    with pytest.raises(UserError, match="aster/me: .*symbolic links"):
        read(split, tmp_path)
