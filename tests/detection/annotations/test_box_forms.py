"""Boxes over the edge, and whole files of boxes in another form."""

import numpy as np
import pytest

from detection.annotations.box_forms import FORMS, other_form
from detection.annotations.check import check_annotations, drop_bad_records
from engine.errors import UserError
from tests.detection.annotations.sets import good


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
