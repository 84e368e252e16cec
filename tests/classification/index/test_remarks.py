"""What a person is told of a split before training on it, or believing its figures."""

import pytest

from classification.index.index import make_index
from classification.index.remarks import mostly_passed_over, remarks


def split(counts, classes=None, passed_over=None):
    """An index with so many images of each class."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    classes = classes or ["aster", "tulip", "zinnia"][: len(counts)]
    index = make_index([f"{number}.jpg" for number in range(len(labels))], labels, classes, "set")
    index.passed_over = passed_over or {}
    return index


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_said_of_a_sound_split(training):
    assert remarks(split([2, 3, 900], passed_over={".txt": 905}), training) == []


def test_a_class_without_images_is_told_of():
    assert remarks(split([2, 0, 3]), True) == ["classes without images (nothing of them can be learnt): tulip"]
    assert remarks(split([2, 0, 3]), False) == ["classes without images (they have no share in the figures): tulip"]


def test_one_class_says_nothing_of_a_network():
    assert remarks(split([5]), True) == ["one class alone, aster: whatever a network says is right"]
    assert remarks(split([0, 5, 0]), False) == ["all images are of one class, tulip"]


def test_classes_of_one_image_are_named_for_training_alone():
    assert remarks(split([1, 1, 4]), True) == ["classes with one image alone: aster, tulip"]
    assert remarks(split([1, 1, 1]), False) == []


def test_names_that_look_alike_are_told_of():
    assert remarks(split([2, 2], ["Aster", "aster"]), True) == [
        "classes with nearly the same name: 'Aster' and 'aster'"
    ]


def test_unlabelled_images_have_no_classes_to_tell_of():
    index = make_index(["1.jpg", "2.jpg"], [-1, -1], ["aster", "tulip"], "set")
    assert remarks(index, False) == []


@pytest.mark.parametrize("count, mostly", [(5, False), (6, True)])
def test_pictures_that_were_passed_over_are_counted(count, mostly):
    index = split([2, 3], passed_over={".heic": count, ".txt": 50})
    (told,) = remarks(index, True)
    assert told.startswith(f"passed over, as they are not read as pictures here: 50 .txt, {count} .heic")
    assert told.endswith("; that is more than the 5 images taken") == mostly == mostly_passed_over(index)
