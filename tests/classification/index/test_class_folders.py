"""Class folders of any data set: which classes there are, in which order, and whose images are whose."""

import pytest

from classification.index.class_folders import find_split
from classification.index.index import open_index
from classification.index.split import SplitNotFound
from engine.errors import UserError


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
