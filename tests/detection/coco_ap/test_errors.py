"""What is wrong with files, records and masks is said of the record, by its place and id."""

import json

import pytest

from detection.coco_ap.average_precision import evaluate_coco
from engine.errors import UserError
from tests.detection.changes import set_at
from tests.detection.coco_ap.test_average_precision import small


def test_errors_of_files(tmp_path):
    truth, found = small()
    good = tmp_path / "truth.json"
    good.write_text(json.dumps(truth))
    bad = tmp_path / "found.json"
    cases = {
        '[{"image_id": 10,\n "score": }]': r"found.json is not valid JSON: line 2, column 11",
        '[{"image_id": 10': r"cut off",
        "": r"is empty",
        '{"a": 1}': r"expected a list of result records, found an object",
        "3": r"expected a list of result records, found 3",
        json.dumps(truth): r"are the two files swapped",
    }
    for text, message in cases.items():
        bad.write_text(text)
        with pytest.raises(UserError, match=message):
            evaluate_coco(good, bad)
    bad.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        evaluate_coco(good, bad)
    with pytest.raises(UserError, match="there is no file .*absent.json"):
        evaluate_coco(good, tmp_path / "absent.json")
    with pytest.raises(UserError, match="is a folder"):
        evaluate_coco(tmp_path, bad)
    bad.write_text(json.dumps(found))
    with pytest.raises(UserError, match="ground truth .*found a list. .*swapped"):
        evaluate_coco(bad, good)
    assert evaluate_coco(good, bad).figures["bbox"]["AP"] == pytest.approx(50.0)


def change(**changes):
    def apply(truth, found):
        for key, value in changes.items():
            if value is KeyError:
                del found[0][key]
            else:
                found[0][key] = value

    return apply


def change_truth(path, value):
    return lambda truth, found: set_at(truth, path, value)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            change(score=KeyError),
            r"detections record 0 has no `score` \(its keys: image_id, category_id, bbox\)",
        ),
        (change(image_id=KeyError), r"record 0 has no `image_id`"),
        (change(category_id=KeyError), r"record 0 has no `category_id`"),
        (change(bbox=KeyError), r"record 0 has no `bbox`"),
        (change(bbox=[1, 2, 3]), r"record 0: `bbox` is \[1, 2, 3\], not four numbers"),
        (change(bbox=[1, 2, 3, "4"]), r"record 0: `bbox` .* not a finite number"),
        (change(bbox=[1, 2, float("nan"), 4]), r"record 0: `bbox` .* not a finite number"),
        (change(bbox=[50, 50, -3, 4]), r"record 0: `bbox` .* negative width or height"),
        (change(score="0.9"), r"record 0: `score` is '0.9', not a finite number"),
        (change(score=float("inf")), r"record 0: `score` is inf, not a finite number"),
        (change(score=None), r"record 0: `score` is None"),
        (change(score=[0.9]), r"record 0: `score` is a list, not a finite number"),
        (change(image_id=77), r"1 of 2 records have an `image_id` .*`images`.*\(1 distinct: 77\)"),
        (change(image_id="10"), r"ids look like 4, these like '10'"),
        (change(image_id=[10]), r"record 0: `image_id` is a list, not an id"),
        (
            lambda truth, found: [record.update(category_id=0) for record in found],
            r"2 of 2 records have an `category_id` .*1 distinct: 0\).* contiguous class indices",
        ),
        (change(category_id="3"), r"record 0: `category_id` is '3', .* look like 3: one is text, the other a number"),
        (change(image_id=10.5), r"record 0: `image_id` is 10.5, not an id"),
        (change(score=10**400), r"record 0: `score` is 1000.*, not a finite number"),
        (change(bbox=[1, 2, 10**30, 4]), r"record 0: `bbox` .* over 2147483648"),
        (change(bbox=[-(2**63), 2, 3, 4]), r"record 0: `bbox` .* over 2147483648"),
        (change(bbox=[1, 1e300, 3, 4]), r"record 0: `bbox` .* over 2147483648"),
        (change(bbox=[1, 2, 3, 10**400]), r"record 0: `bbox` .* not a finite number"),
        (change(bbox=[1, 2, 3, 4, 5]), r"record 0: `bbox` is \[1, 2, 3, 4, 5\], not four numbers"),
        (change_truth(["annotations", 1, "id"], [5]), r"annotation 1: `id` is a list, not an id"),
        (change_truth(["annotations", 1, "image_id"], "4"), r"annotation 1 \(id 6\): `image_id` is '4', .* one kind"),
        (change_truth(["annotations", 1, "category_id"], "90"), r"annotation 1 \(id 6\): `category_id` is '90'"),
        (change_truth(["annotations", 1, "area"], 10**400), r"annotation 1 \(id 6\): `area` is 1000"),
        (change_truth(["annotations", 1, "iscrowd"], "yes"), r"annotation 1 \(id 6\): `iscrowd` is 'yes', neither"),
        (change_truth(["categories", 1, "name"], "x\ud800"), r"categories\[1\] \(id 7\) is 'x\\ud800', with half"),
        (lambda truth, found: found.insert(0, 5), r"detections record 0 is 5, not an object"),
        (change_truth(["images"], KeyError), r"`images` is missing"),
        (change_truth(["annotations"], KeyError), r"`annotations` is missing \(a file of test images"),
        (change_truth(["categories"], {}), r"`categories` is an object, not a list"),
        (change_truth(["images", 1, "id"], KeyError), r"images\[1\] has no `id`"),
        (change_truth(["images", 1, "id"], "x"), r"some ids of `images` are numbers and some are text"),
        (change_truth(["images", 1, "id"], None), r"the id of images\[1\] is None"),
        (change_truth(["annotations", 1, "bbox"], KeyError), r"annotation 1 \(id 6\) has no `bbox`"),
        (
            change_truth(["annotations", 1, "bbox"], [0, 0, 1]),
            r"annotation 1 \(id 6\): `bbox` is \[0, 0, 1\]",
        ),
        (change_truth(["annotations", 1, "area"], [1, 2]), r"annotation 1 \(id 6\): `area` is a list"),
        (change_truth(["annotations", 1, "area"], "large"), r"annotation 1 \(id 6\): `area` is 'large'"),
        (change_truth(["annotations", 1, "image_id"], KeyError), r"annotation 1 \(id 6\) has no `image_id`"),
    ],
)
def test_errors_of_records(mistake, message):
    truth, found = small()
    found.append(dict(found[0]))
    mistake(truth, found)
    with pytest.raises(UserError, match=message):
        evaluate_coco(truth, found)


def test_unknown_ids_are_counted_and_the_first_ten_named():
    truth, found = small()
    found += [{**found[0], "image_id": 100 + number % 15} for number in range(30)]
    with pytest.raises(UserError, match=r"30 of 31 .*15 distinct: 100, 101, .*109, \.\.\."):
        evaluate_coco(truth, found)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (None, r"record 0 has no `segmentation`; without masks evaluate boxes alone"),
        ([], r"record 0 has no `segmentation`"),
        (
            {"size": [50, 100], "counts": "abc"},
            r"record 0: `segmentation` .* size \[50, 100\], image \[100, 100\]",
        ),
        ({"size": [100, 100]}, r"record 0: `segmentation` cannot be used: run lengths without `counts`"),
        ({"size": [100, 100], "counts": 5}, r"record 0: `segmentation` cannot be used: run lengths without"),
        ({"size": [100, 100], "counts": "`U"}, r"record 0: .* damaged run lengths, .* the 10000 pixels"),
        ({"size": [100, 100], "counts": [5, 5]}, r"record 0: .* run lengths of 10 pixels, image 10000"),
        (["a"], r"record 0: `segmentation` cannot be used: \['a'\] is not a list of polygons"),
        ([[1, 2]], r"record 0: `segmentation` cannot be used: no polygon of three points"),
        ([[1, 2, 3, 4, 5, 10**400]], r"record 0: .* a polygon holds something that is not a finite number"),
    ],
)
def test_errors_of_masks(shape, message):
    truth, found = small()
    for annotation in truth["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    found[0]["segmentation"] = shape
    with pytest.raises(UserError, match=message):
        evaluate_coco(truth, found, ("segm",))


def test_masks_need_a_size():
    truth, found = small()
    for annotation in truth["annotations"]:
        annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    for image in truth["images"]:
        del image["height"]
    with pytest.raises(UserError, match=r"annotation 0 \(id 5\): .* need the size of their image"):
        evaluate_coco(truth, found, ("segm",))
    with pytest.raises(UserError, match="unknown IoU type 'keypoints'"):
        evaluate_coco(truth, found, ("keypoints",))
