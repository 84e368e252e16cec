"""Every check on a set that is broken in exactly one way, and what is done about what was found."""

import copy
import json
import math
import os
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.annotations import check as module
from detection.annotations import records as annotation_records
from detection.annotations.box_forms import FORMS, other_form
from detection.annotations.check import check_annotations, class_list, drop_bad_records
from detection.annotations.image_files import DamagedImage, ImageSize, inspect_image
from detection.annotations.report import KINDS
from engine.errors import UserError

DATA = Path(os.environ.get("SE_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SQUARE = [[2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of several formats, 40 x 30 (width x height)."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.png", "c.bmp", "d.webp", "e.tif", "f.gif"):
        Image.fromarray(noise).save(folder / name)
    return folder


@pytest.fixture
def root(pictures, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def good():
    """Six images, two categories with gapped ids, four annotations; nothing wrong."""
    names = ("a.jpg", "b.png", "c.bmp", "d.webp", "e.tif", "f.gif")

    def annotation(identity, image_id, category_id, **more):
        box = [2.0, 2.0, 10.0, 10.0]
        record = {
            "id": identity,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": 100.0,
        }
        return {**record, "iscrowd": 0, "segmentation": copy.deepcopy(SQUARE), **more}

    return {
        "images": [
            {"id": 10 + index, "file_name": name, "width": 40, "height": 30} for index, name in enumerate(names)
        ],
        "annotations": [
            annotation(1, 10, 3),
            annotation(2, 10, 8),
            annotation(3, 11, 8),
            annotation(4, 12, 3, iscrowd=1, segmentation={"size": [30, 40], "counts": [100, 50, 1050]}),
        ],
        "categories": [{"id": 8, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def test_a_good_set_has_no_problems(root):
    for pixels in ("header", "full", "none"):
        report = check_annotations(good(), root, check_pixels=pixels, need_masks=True, class_names=["cat", "dog"])
        assert report.ok and report.problems == [] and report.counts == {}
    assert (report.images, report.annotations, report.categories) == (6, 4, 2)
    assert "0 errors and 0 warnings in 6 images, 4 annotations, 2 categories" in report.format()


def set_value(*path, value):
    def change(coco, root):
        *parents, key = path
        target = coco
        for step in parents:
            target = target[step]
        if value is KeyError:
            del target[key]
        else:
            target[key] = value

    return change


def box(*numbers):
    return set_value("annotations", 2, "bbox", value=list(numbers))


def shape(value):
    return set_value("annotations", 2, "segmentation", value=value)


def append(section, **changes):
    def change(coco, root):
        coco[section].append({**coco[section][1], **changes})

    return change


def cut_off(name, keep=0.6):
    def change(coco, root):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * keep)])

    return change


def overwrite(name, content):
    return lambda coco, root: (root / name).write_bytes(content)


def turned(name, orientation):
    """Saves a picture with an EXIF orientation."""

    def change(coco, root):
        exif = Image.Exif()
        exif[274] = orientation
        with Image.open(root / name) as image:
            image.load()
        image.save(root / name, exif=exif)

    return change


BROKEN = {
    # what is broken: (change, kind, what its line says, id of the image, id of the annotation)
    "image without id": (
        set_value("images", 3, "id", value=KeyError),
        "image_record",
        "`id` is missing",
        None,
        None,
    ),
    "image without size": (
        set_value("images", 3, "width", value=KeyError),
        "image_record",
        "`width` is",
        13,
        None,
    ),
    "image of no size": (
        set_value("images", 3, "height", value=0),
        "image_record",
        "`height` is 0",
        13,
        None,
    ),
    "size as text": (
        set_value("images", 3, "height", value="30"),
        "image_record",
        "`height` is '30'",
        13,
        None,
    ),
    "image no object": (set_value("images", 3, value=7), "image_record", "7 is not an object", None, None),
    "file as number": (
        set_value("images", 3, "file_name", value=7),
        "image_record",
        "`file_name` is 7",
        13,
        None,
    ),
    "image id as text": (
        set_value("images", 3, "id", value="13"),
        "image_record",
        "`id` is '13': some ids are numbers",
        "13",
        None,
    ),
    "image without file": (
        set_value("images", 3, "file_name", value=""),
        "image_record",
        "`file_name` is ''",
        13,
        None,
    ),
    "same image id": (
        append("images", file_name="d.webp", id=10),
        "duplicate_image_id",
        "id 10 is taken by a.jpg",
        10,
        None,
    ),
    "same file": (append("images", id=99), "duplicate_file_name", "is image 11 as well", 99, None),
    "missing file": (
        lambda coco, root: (root / "d.webp").unlink(),
        "missing_image",
        "there is no file",
        13,
        None,
    ),
    "empty file": (overwrite("d.webp", b""), "unreadable_image", "the file is empty", 13, None),
    "no picture": (
        overwrite("d.webp", b"<html>404</html>"),
        "unreadable_image",
        "not an image in a format",
        13,
        None,
    ),
    "cut-off webp": (cut_off("d.webp"), "unreadable_image", "", 13, None),
    "cut-off tiff": (cut_off("e.tif"), "unreadable_image", "", 14, None),
    "cut-off gif": (cut_off("f.gif"), "unreadable_image", "", 15, None),
    "other width": (
        set_value("images", 3, "width", value=41),
        "image_size",
        "41 x 30, the file is 40 x 30",
        13,
        None,
    ),
    "other height": (
        set_value("images", 4, "height", value=29),
        "image_size",
        "40 x 29, the file is 40 x 30",
        14,
        None,
    ),
    "turned picture": (
        turned("d.webp", 6),
        "image_size",
        "30 x 40 after the quarter turn .*remove that tag",
        13,
        None,
    ),
    "category without name": (
        lambda coco, root: coco["categories"].append({"id": 9}),
        "category_record",
        "`name` is missing",
        None,
        None,
    ),
    "category id as list": (
        lambda coco, root: coco["categories"].append({"id": [9], "name": "cup"}),
        "category_record",
        r"`id` is \[9\]",
        None,
        None,
    ),
    "category id as text": (
        lambda coco, root: coco["categories"].append({"id": "9", "name": "cup"}),
        "category_record",
        "`id` is '9': some ids are numbers",
        None,
        None,
    ),
    "same category id": (
        append("categories", name="cup"),
        "duplicate_category_id",
        "id 3 .*'cup'.* is taken",
        None,
        None,
    ),
    "same category name": (
        append("categories", id=9),
        "duplicate_category_name",
        "'cat' .*earlier one's",
        None,
        None,
    ),
    "annotation without box": (
        set_value("annotations", 2, "bbox", value=KeyError),
        "annotation_record",
        "`bbox` is missing",
        11,
        3,
    ),
    "annotation without id": (
        set_value("annotations", 2, "id", value=KeyError),
        "annotation_record",
        "`id` is missing",
        11,
        None,
    ),
    "annotation no object": (
        set_value("annotations", 2, value=None),
        "annotation_record",
        "not an object",
        None,
        None,
    ),
    "category as text list": (
        set_value("annotations", 2, "category_id", value=["cat"]),
        "annotation_record",
        "`category_id` is",
        11,
        3,
    ),
    "same annotation id": (append("annotations"), "duplicate_annotation_id", "id 2 is taken", 10, 2),
    "unknown image": (
        set_value("annotations", 2, "image_id", value=77),
        "unknown_image",
        "has the id 77",
        77,
        3,
    ),
    "unknown category": (
        set_value("annotations", 2, "category_id", value=4),
        "unknown_category",
        "has the id 4",
        11,
        3,
    ),
    "box of three": (box(1, 2, 3), "box_format", r"\[1, 2, 3\] is not four numbers", 11, 3),
    "box with text": (box(1, 2, "3", 4), "box_format", "is not four numbers", 11, 3),
    "box as text": (
        set_value("annotations", 2, "bbox", value="1 23"),
        "box_format",
        "is not four numbers",
        11,
        3,
    ),
    "box with nothing": (box(1, 2, None, 4), "box_format", "is not four numbers", 11, 3),
    "box with NaN": (box(1, 2, math.nan, 4), "box_not_finite", "nan", 11, 3),
    "box with infinity": (box(1, math.inf, 3, 4), "box_not_finite", "inf", 11, 3),
    "box of no width": (box(5, 5, 0, 4), "box_without_area", r"\[5, 5, 0, 4\]", 11, 3),
    "box of no height": (box(5, 5, 4, 0.0), "box_without_area", "", 11, 3),
    "box of corners": (box(15, 15, -4, 5), "box_without_area", "is it x1, y1, x2, y2", 11, 3),
    "box over the left edge": (box(-1.5, 5, 10, 10), "box_over_the_edge", "1.5 px outside of 40 x 30", 11, 3),
    "box over the upper edge": (box(5, -3, 10, 10), "box_over_the_edge", "3 px outside", 11, 3),
    "box over the right edge": (box(35, 5, 7, 10), "box_over_the_edge", "2 px outside", 11, 3),
    "box over the lower edge": (box(5, 25, 7, 10), "box_over_the_edge", "5 px outside", 11, 3),
    "box left of its image": (box(-10, 5, 10, 10), "box_outside_image", "lies outside of 40 x 30", 11, 3),
    "box below its image": (box(5, 30, 4, 4), "box_outside_image", "lies outside", 11, 3),
    "box in fractions": (box(0.7, 0.3, 0.5, 0.9), "box_fraction", "fractions of 40 x 30", 11, 3),
    "crowd as word": (
        set_value("annotations", 2, "iscrowd", value="yes"),
        "crowd_flag",
        "`iscrowd` is 'yes', neither 0",
        11,
        3,
    ),
    "crowd as list": (set_value("annotations", 2, "iscrowd", value=[0]), "crowd_flag", r"is \[0\]", 11, 3),
    "ignored object": (set_value("annotations", 2, "ignore", value=1), "ignore_flag", "`ignore` is 1", 11, 3),
    "area as text": (set_value("annotations", 2, "area", value="100"), "area", "`area` is '100'", 11, 3),
    "area with NaN": (set_value("annotations", 2, "area", value=math.nan), "area", "`area` is nan", 11, 3),
    "area below nothing": (set_value("annotations", 2, "area", value=-1.0), "area", "`area` is -1.0", 11, 3),
    "area of 400 digits": (set_value("annotations", 2, "area", value=10**400), "area", "`area` is 1000", 11, 3),
    "box of 400 digits": (box(1, 2, 10**400, 4), "box_not_finite", "1000", 11, 3),
    "box of 30 digits": (box(1, 2, 10**30, 4), "box_too_large", "over 2147483648", 11, 3),
    "box far to the left": (box(-(2**63), 2, 3, 4), "box_too_large", "over 2147483648", 11, 3),
    "box of a large float": (box(1, 1e300, 3, 4), "box_too_large", "over 2147483648", 11, 3),
    "width of 30 digits": (set_value("images", 3, "width", value=10**30), "image_record", "`width` is", 13, None),
    "width of 400 digits": (set_value("images", 3, "width", value=10**400), "image_record", "`width` is", 13, None),
    "image id as half": (set_value("images", 3, "id", value=13.5), "image_record", "`id` is 13.5", "13.5", None),
    "file of no name": (
        set_value("images", 3, "file_name", value="\ud800.png"),
        "unreadable_image",
        "a name that no file can have",
        13,
        None,
    ),
    "file with a zero": (
        set_value("images", 3, "file_name", value="a\0.png"),
        "unreadable_image",
        "a name that no file can have",
        13,
        None,
    ),
    "file with backslashes": (
        set_value("images", 3, "file_name", value="train\\d.webp"),
        "missing_image",
        "write /",
        13,
        None,
    ),
    "category as number": (
        lambda coco, root: coco["categories"].append({"id": 9, "name": 9}),
        "category_record",
        "`name` is 9, not a text",
        None,
        None,
    ),
    "category of blanks": (
        lambda coco, root: coco["categories"].append({"id": 9, "name": " \n"}),
        "category_record",
        "without a letter",
        None,
        None,
    ),
    "category in two lines": (
        lambda coco, root: coco["categories"].append({"id": 9, "name": "two\nlines"}),
        "category_record",
        r"'two\\nlines', with a line break",
        None,
        None,
    ),
    "half of a category": (
        lambda coco, root: coco["categories"].append({"id": 9, "name": "x\ud800"}),
        "category_record",
        r"'x\\ud800', with",
        None,
        None,
    ),
    "category name once more but for a line break": (
        append("categories", id=9, name="cat\r\n"),
        "duplicate_category_name",
        "'cat' .*earlier one's",
        None,
        None,
    ),
    "image as text": (
        set_value("annotations", 2, "image_id", value="11"),
        "unknown_image",
        "'11': it is a text here, and the number 11 there",
        "11",
        3,
    ),
    "category as text": (
        set_value("annotations", 2, "category_id", value="8"),
        "unknown_category",
        "'8': it is a text here, and the number 8 there",
        11,
        3,
    ),
    "no mask": (
        set_value("annotations", 2, "segmentation", value=KeyError),
        "missing_mask",
        "missing or empty",
        11,
        3,
    ),
    "empty mask": (shape([]), "missing_mask", "missing or empty", 11, 3),
    "polygon of four": (shape([[1, 1, 5, 5]]), "bad_mask", "a polygon of 4 numbers", 11, 3),
    "odd polygon": (shape([[1, 1, 5, 5, 9, 1, 7]]), "bad_mask", "a polygon of 7 numbers", 11, 3),
    "flat polygon": (shape([1, 1, 5, 5, 9, 1]), "bad_mask", "is not a list of polygons", 11, 3),
    "polygon with NaN": (shape([[1, 1, 5, math.nan, 9, 1]]), "bad_mask", "not a finite number", 11, 3),
    "polygon with text": (shape([[1, 1, 5, "5", 9, 1]]), "bad_mask", "not a finite number", 11, 3),
    "one bad polygon": (shape([*SQUARE, [1, 1, 5, 5]]), "bad_polygon", "a polygon of 4 numbers", 11, 3),
    "runs without counts": (shape({"size": [30, 40]}), "bad_mask", "without `counts`", 11, 3),
    "runs of another size": (
        shape({"size": [40, 30], "counts": "abc"}),
        "bad_mask",
        r"size \[40, 30\], image",
        11,
        3,
    ),
    "runs too short": (
        shape({"size": [30, 40], "counts": [5, 5]}),
        "bad_mask",
        "of 10 pixels, image 1200",
        11,
        3,
    ),
    "runs of text": (shape({"size": [30, 40], "counts": ["a"]}), "bad_mask", "not whole numbers of pixels", 11, 3),
    "runs below nothing": (shape({"size": [30, 40], "counts": [-5, 1205]}), "bad_mask", "not whole numbers", 11, 3),
    "runs cut off": (shape({"size": [30, 40], "counts": "`U"}), "bad_mask", "damaged run lengths", 11, 3),
    "runs of no size": (shape({"size": "30x40", "counts": [1200]}), "bad_mask", "which is not .height, width", 11, 3),
    "seven numbers beside": (shape([[1, 2, 3, 4, 5, 6, 7], *SQUARE]), "bad_polygon", "of 7 numbers", 11, 3),
    "nothing beside": (shape([*SQUARE, []]), "bad_polygon", "of 0 numbers", 11, 3),
    "polygon of 400 digits": (shape([[1, 1, 5, 10**400, 9, 1]]), "bad_mask", "not a finite number", 11, 3),
    "polygon far away": (shape([[1, 1, 5, 1e9, 9, 1]]), "bad_mask", "1e.06 pixels outside", 11, 3),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_check_on_a_broken_set(root, name):
    change, kind, message, image_id, annotation_id = BROKEN[name]
    coco = good()
    change(coco, root)
    report = check_annotations(coco, root, need_masks=True, for_evaluation=True)
    # An image or category that is out leaves its annotations without one; here none has any.
    assert report.counts == {kind: 1}, report.format()
    (problem,) = report.problems
    assert problem.is_error == KINDS[kind][0] and report.ok != problem.is_error
    assert (problem.image_id, problem.annotation_id) == (image_id, annotation_id)
    assert re.search(message, problem.message), problem.message
    assert str(problem) in report.format()
    report.format().encode("utf-8")  # whatever the json holds
    # Dropped, the set is sound, and everything that was sound is still there.
    before = copy.deepcopy(coco)
    clean, summary = drop_bad_records(coco, report)
    assert _equal(coco, before)
    assert check_annotations(clean, root, need_masks=True, for_evaluation=True).ok
    dropped = sum(len(coco[section]) - len(clean[section]) for section in ("images", "annotations", "categories"))
    assert dropped == int(problem.is_error) == summary.images + summary.annotations + summary.categories


def _equal(first, second):
    return repr(first) == repr(second)  # repr, since NaN equals nothing


def test_the_table_covers_every_kind():
    tested = {kind for _, kind, *_ in BROKEN.values()}
    assert set(KINDS) - tested == {"class_names", "published_flaw", "box_form"}  # below


@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.99])
def test_cut_off_files_are_found_by_their_end(root, name, keep):
    cut_off(name, keep)(None, root)
    report = check_annotations(good(), root)
    assert report.counts == {"unreadable_image": 1}
    clean, summary = drop_bad_records(good(), report)
    belonging = sum(one["image_id"] == report.problems[0].image_id for one in good()["annotations"])
    assert (summary.images, summary.annotations, summary.annotations_of_dropped) == (1, 0, belonging)
    assert f"dropped 1 of 6 images, {belonging} of 4 annotations" in str(summary)
    assert check_annotations(clean, root).ok


@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
def test_bytes_behind_the_end_do_no_harm(root, name):
    (root / name).write_bytes((root / name).read_bytes() + bytes(range(1, 200)) * 60)
    assert check_annotations(good(), root).problems == []


def test_whole_files_are_not_decoded(root, monkeypatch):
    def read(path, max_pixels):
        raise AssertionError("decoded")

    monkeypatch.setattr("detection.annotations.image_files.read_image", read)
    for name in ("a.jpg", "b.png"):
        assert inspect_image(root / name) == ImageSize(40, 30)
        with pytest.raises(DamagedImage, match="decoded"):
            inspect_image(root / name, decode=True)


def test_a_pngs_checksums_are_compared(root):
    content = bytearray((root / "b.png").read_bytes())
    content[len(content) // 2] ^= 4
    (root / "b.png").write_bytes(content)
    assert check_annotations(good(), root).counts == {"unreadable_image": 1}
    assert check_annotations(good(), root, check_pixels="none").ok


def test_a_wrong_checksum_of_whole_data_does_no_harm(root):
    content = bytearray((root / "b.png").read_bytes())
    end = content.index(b"IDAT") + 4 + int.from_bytes(content[content.index(b"IDAT") - 4 :][:4], "big")
    content[end] ^= 1
    (root / "b.png").write_bytes(content)
    assert check_annotations(good(), root).problems == []


def test_values_of_unknown_range_are_refused_before_training(root):
    Image.fromarray(np.zeros((30, 40), np.float32)).save(root / "b.png", format="TIFF")
    report = check_annotations(good(), root)
    assert report.counts == {"unreadable_image": 1} and "32-bit floats" in report.problems[0].message


def test_more_pixels_than_allowed_name_the_key(root):
    report = check_annotations(good(), root, max_pixels=40 * 30 - 1)
    assert set(report.counts) == {"unreadable_image"} and "INPUT.MAX_PIXELS" in report.problems[0].message
    assert check_annotations(good(), root, max_pixels=0).problems == []


def test_changed_bytes_of_a_jpeg_need_the_full_check(root):
    content = bytearray((root / "a.jpg").read_bytes())
    content[-400:-20] = b"\xff\0" * 190  # ones alone are no code of the usual tables
    (root / "a.jpg").write_bytes(content)
    assert check_annotations(good(), root).ok
    assert check_annotations(good(), root, check_pixels="full").counts == {"unreadable_image": 1}
    assert check_annotations(good(), root, check_pixels="none").ok


def test_sizes_are_upright(root):
    for orientation, expected in ((1, (40, 30)), (3, (40, 30)), (6, (30, 40)), (8, (30, 40))):
        turned("a.jpg", orientation)(None, root)
        size = inspect_image(root / "a.jpg")
        assert (size.width, size.height) == expected and size.turned == (orientation > 4)
        turned("b.png", orientation)(None, root)
        assert inspect_image(root / "b.png") == size
    coco = good()
    coco["images"][0].update(width=30, height=40)
    coco["images"][1].update(width=30, height=40)
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] != 10]
    assert check_annotations(coco, root).ok


def test_inspect_image_errors(root):
    assert inspect_image(root / "a.jpg") == ImageSize(40, 30)
    with pytest.raises(FileNotFoundError):
        inspect_image(root / "absent.jpg")
    with pytest.raises(DamagedImage, match="folder"):
        inspect_image(root)


def test_boxes_may_overshoot_by_a_rounding(root):
    for numbers in ((-0.5, -1, 10, 10), (0, 0, 40.9, 31), (0, 0, 40, 30), (39.5, 29.5, 0.6, 0.7)):
        coco = good()
        coco["annotations"][2]["bbox"] = list(numbers)
        assert check_annotations(coco, root).ok, numbers


def test_masks_matter_only_where_they_are_needed(root):
    coco = good()
    for annotation in coco["annotations"]:
        annotation["segmentation"] = []
    assert check_annotations(coco, root).ok
    assert check_annotations(coco, root, need_masks=True).counts == {"missing_mask": 4}


def test_the_quick_look_hides_nothing(root, monkeypatch):
    """The fast path clears nothing that the slow one would report."""
    for name, (change, kind, *_) in BROKEN.items():
        if kind in ("missing_image", "unreadable_image", "image_size"):
            continue
        coco = good()
        change(coco, root)
        quick = check_annotations(coco, root, need_masks=True, for_evaluation=True, check_pixels="none")
        monkeypatch.setattr(annotation_records, "_is_plainly_right", lambda *arguments: False)
        slow = check_annotations(coco, root, need_masks=True, for_evaluation=True, check_pixels="none")
        monkeypatch.undo()
        assert list(map(str, quick.problems)) == list(map(str, slow.problems)), name


def test_several_problems_of_one_record_are_all_listed(root):
    coco = good()
    coco["annotations"][2].update(id=1, category_id=4, bbox=[1, 1, 0, 5])
    coco["annotations"][3].update(image_id=99)
    report = check_annotations(coco, root)
    kinds = [problem.kind for problem in report.problems]
    assert kinds == ["duplicate_annotation_id", "unknown_image", "unknown_category", "box_without_area"]
    assert list(report.counts) == kinds
    clean, summary = drop_bad_records(coco, report)
    assert summary.annotations == 2 and check_annotations(clean, root).ok


def test_dropping_takes_along_what_belongs(root):
    coco = good()
    coco["categories"].append({"id": 5, "name": "dog"})
    coco["annotations"][2]["category_id"] = 5
    (root / "a.jpg").unlink()
    report = check_annotations(coco, root)
    clean, summary = drop_bad_records(coco, report)
    assert [one["id"] for one in clean["annotations"]] == [4]
    assert (summary.images, summary.categories, summary.annotations, summary.annotations_of_dropped) == (
        1,
        1,
        1,
        2,
    )
    assert str(summary) == (
        "dropped 1 of 6 images, 1 category, 3 of 4 annotations (2 of them only because their image went)"
    )
    assert check_annotations(clean, root).ok
    assert set(clean) == set(coco)
    with pytest.raises(UserError, match="has changed since it was checked"):
        drop_bad_records(clean, report)


def test_classes_are_compared_with_the_model(root):
    for names, message in (
        (["dog", "cat"], "number 0 is 'cat' in the json, 'dog' in the model"),
        (["cat"], "the json has 2 categories, the model 1 classes"),
        (["cat", "dog", "cup"], "the json has 2 categories, the model 3 classes"),
    ):
        report = check_annotations(good(), root, class_names=names)
        assert report.counts == {"class_names": 1} and message in report.format()
        with pytest.raises(UserError, match="dropping records does not mend this"):
            drop_bad_records(good(), report)


def test_published_flaws_are_warnings(root):
    coco = good()
    name, identity = "000000200365.jpg", 200365
    (root / "a.jpg").rename(root / name)
    coco["images"][0].update(id=identity, file_name=name)
    for annotation in coco["annotations"][:2]:
        annotation["image_id"] = identity
    coco["annotations"][0]["bbox"] = [5.0, 5.0, 1.03, 0.0]
    report = check_annotations(coco, root)
    assert report.ok and report.counts == {"published_flaw": 1}
    coco["annotations"][0]["bbox"] = [5.0, 5.0, -1.0, 4.0]
    assert check_annotations(coco, root).counts == {"box_without_area": 1}


def test_a_dictionary_may_hold_numpy_numbers(root, tmp_path):
    coco = good()
    for record in coco["images"]:
        record.update(id=np.int64(record["id"]), width=np.int32(40), height=np.float64(30))
    for record in coco["annotations"]:
        record.update(
            id=np.int64(record["id"]), image_id=np.int64(record["image_id"]), bbox=list(np.full(4, 2, np.float32))
        )
    assert check_annotations(coco, root).ok
    (root / "b.png").unlink()
    coco["annotations"][2]["bbox"][2] = np.float32(0)
    written = json.loads(check_annotations(coco, root).write(tmp_path / "problems.json").read_text())
    assert [(one["image_id"], one["annotation_id"]) for one in written["problems"]] == [(11, None), (11, 3)]


def test_the_listing_shows_ten_of_each_kind(root, tmp_path):
    coco = good()
    for number in range(25):
        coco["annotations"].append({"id": 100 + number, "image_id": 11, "category_id": 3, "bbox": [1, 1, 0, 1]})
        coco["images"].append({"id": 200 + number, "file_name": f"{number}.jpg", "width": 9, "height": 9})
    coco["images"].append({**coco["images"][0], "id": 999})
    report = check_annotations(coco, root)
    text = report.format()
    assert "50 errors and 1 warnings" in text
    assert "error: boxes without area: 25" in text and "error: missing image files: 25" in text
    assert "warning: files listed as more than one image: 1" in text
    assert text.count("bbox [1, 1, 0, 1]") == 10 and text.count("there is no file") == 10
    assert text.count("... and 15 more") == 2
    assert "annotations[4], id 100, image 11, b.png: bbox" in text
    written = json.loads(report.write(tmp_path / "new" / "problems.json").read_text())
    assert written["counts"] == {"duplicate_file_name": 1, "missing_image": 25, "box_without_area": 25}
    assert len(written["problems"]) == 51 and written["ok"] is False
    assert written["problems"][-1]["annotation_id"] == 124 and written["problems"][-1]["file_name"] == "b.png"
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "problems.json"]
    assert pickle.loads(pickle.dumps(report)).problems == report.problems  # travels between processes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON: line 1, column 2"),
        ("", "is empty"),
        ("[]", "holds a list, not the object"),
        ('{"images": [], "categories": []}', "the list `annotations` is missing .*test images"),
        ('{"images": {}, "annotations": [], "categories": []}', "the list `images` is missing"),
    ],
)
def test_unreadable_files_are_user_errors(tmp_path, content, message):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        check_annotations(path, tmp_path)


def test_missing_places_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="there is no file .*absent.json"):
        check_annotations(tmp_path / "absent.json", tmp_path)
    with pytest.raises(UserError, match="image folder .*nowhere does not exist"):
        check_annotations(good(), tmp_path / "nowhere")


def test_files_are_read_in_parallel_and_in_order(root, monkeypatch):
    coco = good()
    coco["images"] += [{"id": 1000 + n, "file_name": f"{n}.jpg", "width": 9, "height": 9} for n in range(500)]
    threads = set()
    inspect = module.inspect_image
    monkeypatch.setattr(module, "inspect_image", lambda *a, **k: threads.add(threading.get_ident()) or inspect(*a, **k))
    report = check_annotations(coco, root, num_workers=4)
    assert [problem.image_id for problem in report.problems] == list(range(1000, 1500))
    assert threading.get_ident() not in threads
    one_by_one = check_annotations(coco, root, num_workers=1)
    assert [str(one) for one in one_by_one.problems] == list(map(str, report.problems))


def test_class_list_is_in_order_of_ids():
    assert class_list(good()) == (["cat", "dog"], {3: 0, 8: 1})
    categories = [{"id": 10.0, "name": "dog\n"}, {"id": 9.0, "name": "\ufeff cafe\u0301\x85"}]
    names, index = class_list({"categories": categories})
    assert names == ["caf\u00e9", "dog"] and json.dumps(index) == '{"9": 0, "10": 1}'


@pytest.mark.parametrize("number", [float, str, np.float64])
def test_ids_of_one_kind_are_read_whatever_it_is(root, number):
    coco = good()
    for record in coco["images"] + coco["categories"] + coco["annotations"]:
        record.update({key: number(record[key]) for key in ("id", "image_id", "category_id") if key in record})
    assert check_annotations(coco, root, need_masks=True, for_evaluation=True).problems == []


def test_of_two_kinds_of_ids_the_rarer_is_wrong(root):
    coco = good()
    coco["images"][0]["id"] = "10"
    coco["categories"].insert(0, {"id": "c", "name": "cup"})
    report = check_annotations(coco, root)
    assert report.counts == {"image_record": 1, "category_record": 1, "unknown_image": 2}
    assert len(drop_bad_records(coco, report)[0]["images"]) == 5


def test_a_box_over_the_edge_is_no_error_and_stays(root):
    coco = good()
    coco["annotations"][2]["bbox"] = [35, 5, 17, 10]
    report = check_annotations(coco, root)
    assert report.ok and drop_bad_records(coco, report)[0]["annotations"] == coco["annotations"]


def boxes_of_other_forms(count=25):
    """Boxes in an image of 40 x 30 (width x height), in pixels, and in other people's forms."""
    random = np.random.default_rng(1)
    corner = random.uniform(0, 1, (count, 2)) * [30, 20]
    extent = 1 + random.uniform(0, 1, (count, 2)) * ([39, 29] - corner)
    return {
        "": np.hstack([corner, extent]),
        "corners": np.hstack([corner, corner + extent]),
        "centres": np.hstack([corner + extent / 2, extent]),
        "fractions": np.hstack([corner, extent]) / [40, 30, 40, 30],
        "fractions of corners": np.hstack([corner, corner + extent]) / [40, 30, 40, 30],
    }


@pytest.mark.parametrize("count", [8, 25])
@pytest.mark.parametrize("form", ["", "corners", "centres", "fractions", "fractions of corners"])
def test_a_file_of_boxes_in_another_form_is_told(root, form, count):
    coco = good()
    boxes = boxes_of_other_forms(count)[form]
    coco["annotations"] = [
        {"id": index, "image_id": 10, "category_id": 3, "bbox": row.tolist()} for index, row in enumerate(boxes)
    ]
    report = check_annotations(coco, root)
    assert report.counts.get("box_form", 0) == bool(form)
    if form:
        (problem,) = [one for one in report.problems if one.kind == "box_form"]
        assert problem.message == FORMS[form.split()[0]]
        with pytest.raises(UserError, match="dropping records does not mend this"):
            drop_bad_records(coco, report)


def test_carelessly_drawn_boxes_are_in_no_other_form():
    boxes = boxes_of_other_forms()[""]
    sizes = np.tile([30, 40], (25, 1))
    assert other_form(boxes + [0, 0, 3, 3], sizes) == ""
    assert other_form(np.vstack([boxes_of_other_forms()["corners"], [[20, 5, 10, 9]]]), sizes[[0] * 26]) == ""
    assert other_form(boxes, sizes * 0) == "" == other_form(boxes[:0], sizes[:0])


@pytest.mark.parametrize("name", ["bccd", "coco_mini"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_sets_are_clean(name, split):
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {folder} (set SE_DATA to the data's folder)")
    path = folder / "annotations" / f"instances_{split}.json"
    report = check_annotations(path, folder / split, need_masks=name == "coco_mini")
    assert report.problems == [], report.format()
    names, index = class_list(json.loads(path.read_text()))
    assert len(names) == {"bccd": 3, "coco_mini": 80}[name]
    assert sorted(index.values()) == list(range(len(names))) and list(index) == sorted(index)
