"""Every check on a set that is broken in exactly one way, and what is done about what was found."""

import copy
import json
import os
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from detection.annotations import check as module
from detection.annotations import records as annotation_records
from detection.annotations.check import check_annotations, class_list, drop_bad_records
from detection.annotations.report import KINDS
from engine.errors import UserError
from tests.detection.annotations.broken_sets import BROKEN
from tests.detection.annotations.sets import good

DATA = Path(os.environ.get("SE_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def test_a_good_set_has_no_problems(root):
    for pixels in ("header", "full", "none"):
        report = check_annotations(good(), root, check_pixels=pixels, need_masks=True, class_names=["cat", "dog"])
        assert report.ok and report.problems == [] and report.counts == {}
    assert (report.images, report.annotations, report.categories) == (6, 4, 2)
    assert "0 errors and 0 warnings in 6 images, 4 annotations, 2 categories" in report.format()


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
    below = {"class_names", "published_flaw", "box_form"}
    of_other_formats = {"label_file", "no_label_file", "unlisted_picture", "label_record"}
    assert set(KINDS) - tested == below | of_other_formats


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
