"""What is wrong with a set is mended where it has one meaning, else dropped; and then nothing is wrong."""

import copy
from functools import partial

import pytest

from detection.annotations.check import check_annotations
from detection.annotations.mend import mend
from engine.errors import UserError
from tests.detection.annotations.broken_sets import BROKEN
from tests.detection.annotations.sets import SQUARE, good

MENDED = {"box_over_the_edge", "duplicate_annotation_id", "area", "bad_polygon", "ignore_flag"}


def mended(coco, root, **asked):
    check = partial(check_annotations, image_root=root, need_masks=True, for_evaluation=True, **asked)
    return mend(coco, check(coco), check)


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_set_is_sound_afterwards_and_keeps_what_was(root, name):
    change, kind, *_ = BROKEN[name]
    coco = good()
    change(coco, root)
    before = copy.deepcopy(coco)
    result = mended(coco, root)
    assert check_annotations(result.coco, root, need_masks=True, for_evaluation=True).problems == []
    assert repr(coco) == repr(before), "the set itself was changed"
    assert (result.mended, result.dropped) == ((1, 0) if kind in MENDED else (0, 1)), result.changes
    assert len(result.changes) == 1 and result.changes[0].startswith("mended: " if kind in MENDED else "dropped: ")
    lost = sum(len(coco[section]) - len(result.coco[section]) for section in ("images", "annotations", "categories"))
    assert lost == result.dropped


def test_a_sound_set_stays_as_it_is(root):
    coco = good()
    result = mended(coco, root)
    assert result.coco == coco and result.changes == [] and result.mended == result.dropped == 0


def test_boxes_are_clipped_with_their_area_where_no_mask_has_its_own(root):
    coco = good()
    for annotation, masked in zip(coco["annotations"][:2], (False, True), strict=True):
        annotation.update(bbox=[35.0, -3, 10, 10], segmentation=SQUARE if masked else [])
    check = partial(check_annotations, image_root=root)
    result = mend(coco, check(coco), check)
    assert [one["bbox"] for one in result.coco["annotations"][:2]] == [[35, 0, 5, 7]] * 2
    assert [one["area"] for one in result.coco["annotations"][:2]] == [35, 100]
    assert (
        "annotations[0], id 1, image 10, a.jpg: bbox [35.0, -3, 10, 10] clipped to [35.0, 0, 5.0, 7]"
        in (result.changes[0])
    )


def test_twins_are_joined_with_their_annotations(root):
    coco = good()
    coco["categories"].append({"id": 9, "name": "cat "})
    coco["images"].append({**coco["images"][0], "id": 99})
    coco["annotations"][0].update(category_id=9)
    coco["annotations"][1].update(image_id=99)
    result = mended(coco, root)
    assert [(one["image_id"], one["category_id"]) for one in result.coco["annotations"][:2]] == [(10, 3), (10, 8)]
    assert (result.mended, result.dropped, result.gone) == (2, 2, 0)
    assert [one["id"] for one in result.coco["categories"]] == [8, 3] and len(result.coco["images"]) == 6


def test_annotations_go_with_their_image(root):
    (root / "a.jpg").unlink()
    result = mended(good(), root)
    assert [one["id"] for one in result.coco["annotations"]] == [3, 4]
    assert (result.dropped, result.gone) == (3, 2) and len(result.changes) == 1


def test_repeated_ids_get_numbers_that_nothing_else_has(root):
    coco = good()
    coco["annotations"] += [copy.deepcopy(coco["annotations"][1]) for _ in range(3)]
    assert [one["id"] for one in mended(coco, root).coco["annotations"]] == [1, 2, 3, 4, 5, 6, 7]


def test_a_record_with_two_faults_is_dropped_where_one_is_not_mended(root):
    coco = good()
    coco["annotations"][2].update(bbox=[-3, 3, 9, 9], iscrowd="perhaps")
    result = mended(coco, root)
    assert [one["id"] for one in result.coco["annotations"]] == [1, 2, 4] and result.mended == 0


def test_boxes_in_another_form_are_for_a_person_to_mend(root):
    coco = good()
    for annotation in coco["annotations"]:
        annotation["bbox"] = [30, 20, 39, 29]
    with pytest.raises(UserError, match="all fit as x1, y1, x2, y2; mending or dropping records does not help"):
        mended(coco, root)
