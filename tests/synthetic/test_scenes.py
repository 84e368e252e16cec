"""The drawn scene set: the same pixels each time, kept when whole, and told apart by more than its colours."""

import hashlib
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from classification.index.index import open_index
from engine.errors import UserError
from places365.categories import PLACES365, indoor_flags
from places365.layout import find_split
from synthetic.scenes import CLASSES, MARKER, draw_scene, encode_jpeg, generate_scenes

SMALL = {"train": 2, "val": 1, "size": 64, "seed": 5}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return generate_scenes(tmp_path_factory.mktemp("scenes") / "set", **SMALL)


@pytest.fixture(scope="module")
def many():
    """(pictures, labels) of train and val: enough to compare classes."""

    def draw(split, count):
        pictures = [draw_scene(name, split, index, 64) for name in CLASSES for index in range(count)]
        return np.stack(pictures), np.repeat(np.arange(len(CLASSES)), count)

    return draw("train", 24), draw("val", 12)


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def digest(*arguments):
    return hashlib.sha256(draw_scene(*arguments).tobytes()).hexdigest()


def test_two_runs_are_equal(small, tmp_path):
    for name in CLASSES:
        assert digest(name, "train", 3, 96) == digest(name, "train", 3, 96)
    assert tree(generate_scenes(tmp_path, **SMALL).root) == tree(small.root)


def test_no_two_pictures_are_the_same():
    """Another seed, split, class or position is another picture: nothing of val was trained on."""
    places = [
        (name, split, index, 64, seed)
        for name in CLASSES
        for split in ("train", "val")
        for index in range(3)
        for seed in (1, 2)
    ]
    assert len({digest(*place) for place in places}) == len(places)


def test_a_larger_set_begins_with_the_smaller(small, tmp_path):
    larger = tree(generate_scenes(tmp_path, **{**SMALL, "train": 3}).root)
    pictures = {name: content for name, content in tree(small.root).items() if name != MARKER}
    assert pictures.items() < larger.items()


def test_it_is_a_set_of_class_folders_with_official_names(small, tmp_path):
    assert set(CLASSES) <= set(PLACES365) and list(CLASSES) == sorted(CLASSES)
    assert sorted(indoor_flags(CLASSES)) == [False] * 4 + [True] * 4
    for split, count in (("train", 2), ("val", 1)):
        found = find_split(small.root, split)
        index = open_index(found, tmp_path)
        assert index.classes == list(CLASSES) and len(index) == count * len(CLASSES)
        assert [index.name(i).split("/")[-2] for i in range(len(index))] == [CLASSES[n] for n in index.labels]


def test_pictures_are_written_as_they_were_drawn(small):
    drawn = draw_scene("street", "train", 0, SMALL["size"], SMALL["seed"])
    with Image.open(io.BytesIO((small.root / "train" / "street" / "000001.jpg").read_bytes())) as image:
        assert image.format == "JPEG" and image.size == (64, 64)
        assert np.abs(np.asarray(image).astype(int) - drawn).mean() < 8  # JPEG; channels swapped would be far more
    assert encode_jpeg(drawn) == (small.root / "train" / "street" / "000001.jpg").read_bytes()


def test_a_complete_set_is_kept_and_a_damaged_one_redone(tmp_path, small):
    assert generate_scenes(small.root, **SMALL).generated is False
    drawn = generate_scenes(tmp_path / "set", **{**SMALL, "train": 3})
    assert generate_scenes(drawn.root, **SMALL).generated is True  # the third pictures go
    assert tree(drawn.root) == tree(small.root)
    victim = drawn.root / "val" / "coast" / "000001.jpg"
    victim.write_bytes(victim.read_bytes()[:-9])
    assert generate_scenes(drawn.root, **SMALL).generated is True
    assert tree(drawn.root) == tree(small.root)


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"meow")
    with pytest.raises(UserError, match=r"scenes: .* holds files that were not drawn here \(photo.jpg"):
        generate_scenes(tmp_path, **SMALL)
    assert tree(tmp_path) == {"photo.jpg": b"meow"}


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"size": 63}, {"seed": -1}, {"seed": 2**32}])
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(UserError, match="must be at least"):
        generate_scenes(tmp_path / "set", **{**SMALL, **wrong})
    assert not (tmp_path / "set").exists()


def nearest(describe, many, neighbours=5):
    """Share of val's scenes whose class most of their nearest neighbours in train have."""
    (train, labels), (val, truth) = many
    first, second = np.stack([describe(image) for image in train]), np.stack([describe(image) for image in val])
    distance = ((second[:, None] - first[None]) ** 2).sum(-1)
    votes = labels[np.argsort(distance, axis=1)[:, :neighbours]]
    return float(np.mean([np.bincount(vote, minlength=len(CLASSES)).argmax() for vote in votes] == truth))


def colours(image):
    histogram = cv2.calcHist([image], [0, 1, 2], None, [4, 4, 4], [0, 256] * 3).ravel()
    return np.sqrt(histogram / histogram.sum())


def edges(image):
    """Directions of edges in 4 x 4 parts of the picture."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    x, y = cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)
    strength, direction = np.hypot(x, y), np.minimum(np.arctan2(y, x) % np.pi / np.pi * 8, 7).astype(int)
    parts = [
        np.bincount(direction[part].ravel(), strength[part].ravel(), 8)
        for part in (np.s_[r : r + 16, c : c + 16] for r in range(0, 64, 16) for c in range(0, 64, 16))
    ]
    return np.sqrt(np.concatenate(parts) / strength.sum())


def test_colours_do_not_tell_the_classes_and_shapes_do(many):
    """Of eight classes one in eight is chance. What the set is for is a network that looks at what is built how."""
    by_colour, by_edges = nearest(colours, many), nearest(edges, many)
    assert by_colour < 0.45, by_colour
    assert 0.5 < by_edges < 0.95, by_edges


def test_every_picture_has_something_in_it(many):
    (train, _), _ = many
    contrast = train.astype(np.float32).std(axis=(1, 2, 3))
    assert contrast.min() > 5 and np.median(contrast) > 25
    assert train.dtype == np.uint8 and train.shape[1:] == (64, 64, 3)
