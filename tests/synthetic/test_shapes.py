"""The drawn set: the same bytes everywhere, exact masks and boxes, kept when whole and redone when not."""

import hashlib
import json
import math

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detection.annotations.check import check_annotations, class_list
from engine.errors import UserError
from synthetic import shapes as module
from synthetic.shape_scene import MIN_VISIBLE, OUTLINES, UNIT, draw_scene, outlines
from synthetic.shapes import CATEGORIES, encode_png, generate_shapes

SMALL = {"train": 8, "val": 3, "size": 64, "seed": 5}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("shapes") / "set", **SMALL)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_bytes_everywhere(tmp_path):
    """Pinned: another numpy, zlib or machine must give these. If the drawing itself changes, GENERATOR must,
    too, or sets that were drawn before would be taken for complete; RADIUS and the like are in the marker.
    """
    drawn = generate_shapes(tmp_path, train=3, val=1, size=160, seed=1)
    assert module.GENERATOR == "se-backbones-shapes/1"
    assert {path.name: digest(path) for path in (drawn.train_json, drawn.val_json)} == {
        "instances_train.json": "4750d18315280cff",
        "instances_val.json": "1f301a2236fc1e9d",
    }
    assert digest(drawn.train_images / "000001.png") == "057ce46ce6344cd8"
    assert digest(drawn.val_images / "000002.png") == "9b38aeed5749049b"


def test_two_runs_are_equal(small, tmp_path):
    assert tree(generate_shapes(tmp_path, **SMALL).root) == tree(small.root)


def test_seeds_differ_and_a_larger_set_begins_with_the_smaller(small, tmp_path):
    larger = generate_shapes(tmp_path / "larger", **{**SMALL, "train": 10})
    mine, theirs = tree(small.root), tree(larger.root)
    assert all(theirs[name] == content for name, content in mine.items() if name.endswith(".png"))
    first, second = (json.loads(one.train_json.read_text()) for one in (small, larger))
    assert second["annotations"][: len(first["annotations"])] == first["annotations"]
    other = tree(generate_shapes(tmp_path / "other", **{**SMALL, "seed": 6}).root)
    assert not set(mine.values()) & {content for name, content in other.items() if name.endswith(".png")}


def test_coco_format(small):
    for path, folder, parity in (
        (small.train_json, small.train_images, 1),
        (small.val_json, small.val_images, 0),
    ):
        content = json.loads(path.read_text())
        assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
        assert sorted(one.name for one in folder.iterdir()) == [one["file_name"] for one in content["images"]]
        assert all(one["id"] % 2 == parity for one in content["images"])
        assert [one["id"] for one in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
        names, index = class_list(content)
        assert names == list(CATEGORIES) and list(index) == [1, 2, 4, 7, 9]
        report = check_annotations(path, folder, check_pixels="full", need_masks=True)
        assert report.problems == []


def test_every_image_has_objects_and_every_class_occurs(tmp_path):
    drawn = generate_shapes(tmp_path, train=40, val=1, size=64, seed=3)
    content = json.loads(drawn.train_json.read_text())
    assert {one["image_id"] for one in content["annotations"]} == {one["id"] for one in content["images"]}
    assert {one["category_id"] for one in content["annotations"]} == set(CATEGORIES.values())


def test_masks_boxes_and_areas_are_exact():
    """The outline gives the drawn mask back, pixel for pixel; box and area are the mask's."""
    for seed in range(25):
        _, shapes = draw_scene(np.random.RandomState(seed), 96)
        assert shapes
        for shape in shapes:
            annotation = module._annotation(shape, 1)
            runs = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], 96, 96))
            assert np.array_equal(coco_mask.decode(runs).astype(bool), shape.mask)
            assert coco_mask.toBbox(runs).tolist() == annotation["bbox"]
            assert int(coco_mask.area(runs)) == annotation["area"]
            assert len(annotation["segmentation"]) == 1


def test_masks_do_not_overlap_and_enough_is_in_sight():
    """Each pixel is the topmost shape's, and no shape has lost more than the rule allows to later ones."""
    partly_hidden = 0
    for seed in range(40):
        _, shapes = draw_scene(np.random.RandomState(seed), 96)
        assert (sum(shape.mask.astype(int) for shape in shapes) <= 1).all()
        for shape in shapes:
            assert shape.mask.sum() * 100 >= MIN_VISIBLE * shape.pixels
            partly_hidden += int(shape.mask.sum() < shape.pixels)
        assert shapes[-1].mask.sum() == shapes[-1].pixels
    assert partly_hidden > 5, "scenes without overlap would be too easy"


def test_shapes_are_where_the_masks_are():
    """Inside a mask, away from its edge, the picture has the shape's colour, which differs from what is
    outside."""
    for seed in range(12):
        picture, shapes = draw_scene(np.random.RandomState(seed), 128)
        free = ~np.any([shape.mask for shape in shapes], axis=0)
        kernel = np.ones((3, 3), np.uint8)
        for shape in shapes:
            inner = cv2.erode(shape.mask.astype(np.uint8), kernel, iterations=2).astype(bool)
            ring = cv2.dilate(shape.mask.astype(np.uint8), kernel, iterations=6).astype(bool)
            ring &= ~cv2.dilate(shape.mask.astype(np.uint8), kernel, iterations=2).astype(bool) & free
            if inner.sum() > 20 and ring.sum() > 20:
                difference = picture[inner].mean(0) - picture[ring].mean(0)
                assert np.abs(difference).max() > 25, (seed, shape.name)


def test_outlines_of_simple_masks():
    mask = np.zeros((5, 6), dtype=bool)
    assert outlines(mask) == []
    mask[1:3, 2:5] = True
    assert outlines(mask) == [[2, 1, 5, 1, 5, 3, 2, 3]]
    mask[3, 5] = True  # touches at a corner: a part of its own
    assert outlines(mask) == [[2, 1, 5, 1, 5, 3, 2, 3], [5, 3, 6, 3, 6, 4, 5, 4]]
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    assert outlines(ring) == [[0, 0, 3, 0, 3, 3, 0, 3], [1, 1, 1, 2, 2, 2, 2, 1]]


def test_outlines_are_of_unit_size():
    for name, points in OUTLINES.items():
        if points is not None:
            assert max(math.hypot(x, y) for x, y in points) == pytest.approx(UNIT, rel=0.005), name


def test_png_is_read_alike_by_every_reader(tmp_path):
    for shape in ((1, 1), (7, 13), (160, 160), (300, 100)):
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        path = tmp_path / "one.png"
        path.write_bytes(encode_png(image))
        with Image.open(path) as opened:
            opened.load()
            assert np.array_equal(np.array(opened), image)
        assert np.array_equal(cv2.imread(str(path))[..., ::-1], image)


def test_a_complete_set_is_kept(small):
    before = {path: path.stat().st_mtime_ns for path in small.root.rglob("*")}
    again = generate_shapes(small.root, **SMALL)
    assert again.generated is False and again.root == small.root
    assert {path: path.stat().st_mtime_ns for path in small.root.rglob("*")} == before


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "json", "marker"])
def test_a_damaged_set_is_redone(small, tmp_path, damage):
    drawn = generate_shapes(tmp_path / "set", **SMALL)
    victim = {"json": drawn.val_json, "marker": drawn.root / module.MARKER}.get(
        damage, drawn.train_images / "000005.png"
    )
    content = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(content[:-50])
    elif damage == "marker":
        victim.write_text(json.dumps({"generator": module.GENERATOR}))
    else:
        victim.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    assert generate_shapes(drawn.root, **SMALL).generated is True
    assert tree(drawn.root) == tree(small.root)


def test_an_interrupted_generation_is_redone(small, tmp_path, monkeypatch):
    def interrupted(*arguments):
        for count, file in enumerate(files(*arguments)):
            if count == 7:
                raise KeyboardInterrupt
            yield file

    files = module._files
    monkeypatch.setattr(module, "_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path / "set", **SMALL)
    monkeypatch.undo()
    assert not (tmp_path / "set" / "annotations" / "instances_train.json").exists()
    assert generate_shapes(tmp_path / "set", **SMALL).generated is True
    assert tree(tmp_path / "set") == tree(small.root)


def test_other_arguments_replace_a_set_of_ours(tmp_path, small):
    generate_shapes(tmp_path, **{**SMALL, "train": 9, "seed": 9})
    assert generate_shapes(tmp_path, **SMALL).generated is True
    assert tree(tmp_path) == tree(small.root)


def test_another_recipe_makes_another_set(tmp_path, monkeypatch):
    generate_shapes(tmp_path, **SMALL)
    monkeypatch.setattr(module, "MIN_VISIBLE", MIN_VISIBLE + 1)
    assert generate_shapes(tmp_path, **SMALL).generated is True


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(UserError, match=r"photos holds files that were not drawn here \(cat.jpg, ...\)"):
        generate_shapes(tmp_path / "photos", **SMALL)
    (tmp_path / "photos" / module.MARKER).write_text('{"generator": "somebody else"}')
    with pytest.raises(UserError, match="left alone"):
        generate_shapes(tmp_path / "photos", **SMALL)
    assert len(list((tmp_path / "photos").rglob("*"))) == 2
    with pytest.raises(UserError, match="is a file"):
        generate_shapes(tmp_path / "photos" / "cat.jpg", **SMALL)
    with pytest.raises(UserError, match="cannot write"):
        generate_shapes(tmp_path / "photos" / "cat.jpg" / "below", **SMALL)


@pytest.mark.parametrize("wrong", [{"train": 0}, {"val": 0}, {"size": 63}, {"seed": -1}, {"seed": 2**32}])
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(UserError, match="must be at least"):
        generate_shapes(tmp_path / "set", **{**SMALL, **wrong})
    assert not (tmp_path / "set").exists()
