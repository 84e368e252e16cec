"""What YOLO's files say, and what is said of those that are damaged."""

import re

import pytest

from detection.annotations.check import check_annotations
from detection.formats.read import read_annotations
from engine.errors import UserError
from tests.detection.formats.conftest import picture, write


def of_one(forms, text):
    """The set whose one image has these labels."""
    write(forms.yolo / "labels" / "val" / "d.txt", text)
    return read_annotations(forms.yolo, split="val")


def report_of(found, **more):
    return check_annotations(found.coco, found.images, origin=found.origin, for_evaluation=True, **more)


def described(forms, text):
    write(forms.yolo / "data.yaml", text)
    return read_annotations(forms.yolo / "data.yaml", split="val")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[cat, dog]", {0: "cat", 1: "dog"}),
        ("{0: cat, 1: dog, 7: on}", {0: "cat", 1: "dog", 7: "on"}),  # YAML's own truth
        ("\n  - cat\n  - 1\n  - ' dog '", {0: "cat", 1: "1", 2: "dog"}),
        ("\n  0: no\n  1: 2020-01-01\n  2: ~", {0: "no", 1: "2020-01-01", 2: "~"}),
    ],
)
def test_names_are_texts_of_a_list_or_by_number(forms, names, expected):
    found = described(forms, f"train: images/train\nval: images/val\nnames: {names}\n")
    assert {one["id"]: one["name"] for one in found.coco["categories"]} == expected
    assert report_of(found).ok


@pytest.mark.parametrize(
    "text",
    [
        "path: {root}\nval: images/val",
        "path: ../yolo\nval: images/val",
        "path: /home/someone/elsewhere\nval: images/val",  # of the machine where it was made
        "path:\nval: ../images/val",  # Roboflow's
        "valid: images/val",
        "val: [images/val]",
        "val: {root}/images/val",
        "val: val.txt",
        "val: images/val\nnc: 2",
        "val: images/val\nnc: null\ntrain: ~\ntest: Null",  # nothing, in YAML's words
        "val: lists/darknet.txt",  # from the set's folder on, not the list's
    ],
)
def test_splits_are_found_below_the_path_or_the_file(forms, text):
    write(forms.yolo / "val.txt", "./images/val/d.jpg\n")
    write(forms.yolo / "lists" / "darknet.txt", "images/val/d.jpg\n")
    found = described(forms, text.format(root=forms.yolo) + "\nnames: [cat, dog]\n")
    assert [one["file_name"] for one in found.coco["images"]] == ["images/val/d.jpg"]
    assert len(found.coco["annotations"]) == 2 and report_of(found).problems == []


def test_a_split_without_a_place_is_none(forms):
    described(forms, "train: images/train\nval: images/val\ntest: null\nnames: [cat, dog]\n")
    assert len(read_annotations(forms.yolo).coco["images"]) == 4  # those of all splits
    with pytest.raises(UserError, match="names no test images; it has train, val"):
        read_annotations(forms.yolo, split="test")


def test_a_polygon_has_a_box_an_area_and_a_mask(forms):
    found = of_one(forms, "1 0.25 0.1 0.75 0.1 0.75 0.5 0.5 0.9\n")
    (record,) = found.coco["annotations"]
    assert record["bbox"] == pytest.approx([10, 3, 20, 24])
    assert record["segmentation"] == [pytest.approx([10, 3, 30, 3, 30, 15, 20, 27])]
    # Two triangles: (10, 3), (30, 3), (30, 15) of 20 x 12 / 2, and (10, 3), (30, 15), (20, 27) of 360 / 2.
    assert record["area"] == pytest.approx(120 + 180)
    assert report_of(found, need_masks=True).problems == []


def test_points_of_a_pose_are_passed_over(forms):
    write(forms.yolo / "labels" / "val" / "d.txt", "0 0.5 0.5 0.5 0.5 0.1 0.1 2 0.2 0.2 2\n")
    found = described(forms, "val: images/val\nkpt_shape: [2, 3]\nnames: [cat]\n")
    assert [one["bbox"] for one in found.coco["annotations"]] == [[10, 7.5, 20, 15]]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_has_no_objects(forms, text):
    found = of_one(forms, text)
    assert found.coco["annotations"] == [] and len(found.coco["images"]) == 1 and report_of(found).problems == []


def test_an_image_without_labels_has_no_objects_and_is_counted(forms):
    (forms.yolo / "labels" / "train" / "c.txt").unlink()
    report = report_of(read_annotations(forms.yolo, split="train"))
    assert report.ok and report.counts == {"no_label_file": 1} and report.images == 3
    assert "labels/train/c.txt, images/train/c.jpg: there is no file" in report.format()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "2 0.5 0.5 0.1 0.1",
            "unknown_category",
            r"line 1, images/val/d\.jpg: its class 2 is none of the 2 in .*0\.\.1",
        ),
        ("-1 0.5 0.5 0.1 0.1", "unknown_category", "its class -1 is none"),
        ("0 .5 .5 .1 .1\n\n1.5 .5 .5 .1 .1", "label_record", "labels/val/d.txt, line 3, .* a class that is not whole"),
        ("cat 0.5 0.5 0.1 0.1", "label_record", "'cat' is not a number"),
        ("0 nan 0.5 0.1 0.1", "label_record", "not finite"),
        ("0 0.5 0.5 0.1", "label_record", "4 numbers: 5 are a box"),
        ("0 0.5 0.5 0.1 0.1 0.9", "label_record", "6 numbers: 5 are a box"),
        ("0 320 240 100 50", "label_record", "it holds 320: are these pixels"),
        ("0 0.5 0.5 -0.1 0.1", "box_without_area", "bbox"),
        ("0 0.5 0.5 0 0.1", "box_without_area", r"d\.txt, line 1, images/val/d\.jpg: bbox"),
        ("0 1.5 0.5 0.2 0.1", "box_outside_image", "line 1"),
        ("0 0.9 0.5 0.4 0.1", "box_over_the_edge", "line 1, .*reaches 4 px outside of 40 x 30"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(forms, text, kind, message):
    report = report_of(of_one(forms, text))
    assert report.counts == {kind: 1}, report.format()
    assert re.search(message, report.format()), report.format()


def test_a_file_that_is_no_text_and_a_picture_that_is_none_are_said(forms):
    (forms.yolo / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe\x00")
    (forms.yolo / "images" / "train" / "c.jpg").write_bytes(b"none")
    report = report_of(read_annotations(forms.yolo, split="train"))
    assert report.counts == {"unreadable_image": 1, "label_file": 1}, report.format()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val: images/val", "`names` is missing or empty"),
        ("val: images/val\nnames: 3", "`names` is missing or empty"),
        ("val: images/val\nnames: {cat: 0}", "`names` must be a list of names, or a name for each class number"),
        ("val: images/val\nnames: [[cat]]", "`names` must be"),
        ("val: images/val\nnc: 3\nnames: [cat]", "`nc` is 3, and `names` has 1"),
        ("train: images/train\nnames: [cat]", "names no val images; it has train"),
        ("val: images/other\nnames: [cat]", "there is no folder or list .*images/other"),
        ("val: {a: b}\nnames: [cat]", "`val` must be a path, or a list of paths"),
        ("val: labels/val\nnames: [cat]", "there are no images in"),
        ("val: [", "is not valid YAML, line 1"),
        ("- a", "it has no keys"),
        (
            "val: images/val\nnames: !!python/object/apply:os.getcwd []",
            "is not valid YAML, line 2: could not determine",
        ),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(forms, text, message):
    with pytest.raises(UserError, match=message):
        described(forms, text)


def test_labels_that_lie_elsewhere_are_missed_at_once(forms):
    (forms.yolo / "labels").rename(forms.yolo / "txt")
    with pytest.raises(UserError, match=r"none of its 1 images has a file of labels; .*labels/val/d\.txt"):
        read_annotations(forms.yolo, split="val")


def test_a_folder_without_description_has_a_list_of_classes(forms):
    (forms.yolo / "data.yaml").unlink()
    with pytest.raises(UserError, match="nothing names its classes"):
        read_annotations(forms.yolo)
    write(forms.yolo / "labels" / "classes.txt", "cat\ndog\n")
    assert len(read_annotations(forms.yolo).coco["images"]) == 4
    found = read_annotations(forms.yolo, split="val")
    assert [one["file_name"] for one in found.coco["images"]] == ["images/val/d.jpg"]


def test_labels_may_lie_beside_their_images(tmp_path):
    picture(tmp_path / "mine" / "a.png")
    write(tmp_path / "mine" / "a.txt", "0 0.5 0.5 0.5 0.5")
    write(tmp_path / "data.yml", "val: mine\nnames: [cat]\n")
    assert len(read_annotations(tmp_path, split="val").coco["annotations"]) == 1
