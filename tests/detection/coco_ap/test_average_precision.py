"""COCO AP is that of published pairs of files, and says what is wrong with what it is given."""

import copy
import json
import os
from pathlib import Path

import pytest

from detection.coco_ap.average_precision import FIGURES, compare_evaluators, evaluate_coco, format_table
from detection.coco_ap.inputs import build_input
from engine.errors import UserError
from tests.detection.coco_ap.generated import random_case
from tests.detection.coco_ap.reference import MAX_DIFFERENCE, pycocotools_stats

RESULTS = Path(os.environ.get("SE_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "coco_results"
COCO_100 = "cocoapi_val2014_100/instances_val2014_100.json"
PAIRS = {
    "cocoapi_val2014_100 bbox": (
        COCO_100,
        "cocoapi_val2014_100/instances_val2014_fakebbox100_results.json",
        "bbox",
    ),
    "cocoapi_val2014_100 segm": (
        COCO_100,
        "cocoapi_val2014_100/instances_val2014_fakesegm100_results.json",
        "segm",
    ),
    "fce_small": ("fce_small/gt_dataset.json", "fce_small/dt_dataset.json", "bbox"),
}
needs_results = pytest.mark.skipif(not RESULTS.is_dir(), reason=f"no {RESULTS} (set SE_DATA to the data's folder)")


def small():
    """Two images, three categories with gapped ids of which 7 has no annotation; one right detection."""
    ground_truth = {
        "images": [{"id": 10, "height": 100, "width": 100}, {"id": 4, "height": 100, "width": 100}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 90, "name": "cup"}],
        "annotations": [
            {"id": 5, "image_id": 10, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
            {"id": 6, "image_id": 4, "category_id": 90, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
        ],
    }
    return ground_truth, [{"image_id": 10, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.9}]


@needs_results
@pytest.mark.parametrize("pair", PAIRS)
def test_published_pairs_to_full_precision(pair, evaluator):
    truth, found, iou_type = PAIRS[pair]
    expected = json.loads((RESULTS / "pycocotools_2.0.11_stats.json").read_text())[pair]
    result = evaluate_coco(RESULTS / truth, RESULTS / found, (iou_type,), evaluator)
    assert result.stats[iou_type] == pytest.approx(list(expected["stats"].values()), abs=1e-9)
    assert list(result.figures[iou_type]) == list(expected["stats"]) == list(FIGURES)
    assert (result.images, result.ground_truths, result.detections) == (
        expected["images"],
        expected["gts"],
        expected["dets"],
    )


@needs_results
def test_files_give_each_category_its_own_ap():
    truth, found, _ = PAIRS["cocoapi_val2014_100 bbox"]
    result = evaluate_coco(RESULTS / truth, RESULTS / found)
    data = json.loads((RESULTS / truth).read_text())
    _, precision = pycocotools_stats(data, json.loads((RESULTS / found).read_text()), "bbox")
    for index, category in enumerate(sorted(data["categories"], key=lambda one: one["id"])):
        values = precision[:, :, index, 0, 2]
        ap = result.per_category["bbox"][category["name"]]
        assert ap is None if (values == -1).all() else ap == pytest.approx(100 * values.mean(), abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detections_give_zero(iou_type, evaluator):
    truth, _ = random_case(3, masks=iou_type == "segm")
    result = evaluate_coco(truth, [], (iou_type,), evaluator)
    assert all(value in (0.0, None) for value in result.figures[iou_type].values())
    assert result.figures[iou_type]["AP"] == 0.0
    assert list(result.per_category[iou_type].values())[-1] is None  # the category without annotations
    assert "-" in format_table(result)


def test_nothing_to_find_gives_none(evaluator):
    truth, found = small()
    truth["annotations"] = []
    for detections in ([], found):
        result = evaluate_coco(truth, detections, evaluator=evaluator)
        assert set(result.figures["bbox"].values()) == {None}
        assert set(result.per_category["bbox"].values()) == {None}
        assert result.stats["bbox"] == [-1.0] * 12
    truth["categories"] = []
    assert "no categories" in format_table(evaluate_coco(truth, [], evaluator=evaluator))


def test_crowd_is_neither_found_nor_missed(evaluator):
    truth, found = small()
    truth["annotations"][1]["iscrowd"] = 1
    truth["annotations"][1]["bbox"] = [0, 0, 50, 50]
    inside = [{"image_id": 4, "category_id": 90, "bbox": [x, x, 9, 9], "score": 0.99} for x in range(5)]
    result = evaluate_coco(truth, found + inside, evaluator=evaluator)
    assert result.per_category["bbox"] == {"cat": pytest.approx(100.0), "dog": None, "cup": None}
    assert result.figures["bbox"]["AP"] == pytest.approx(100.0)


def test_evaluators_print_nothing(evaluator, capfd):
    evaluate_coco(*small(), evaluator=evaluator)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_inputs_are_not_changed():
    for truth, found in (small(), random_case(1, masks=True)):
        before = copy.deepcopy((truth, found))
        evaluate_coco(truth, found, None)
        assert (truth, found) == before


def test_ids_are_identity_and_order_alone(evaluator):
    """Gapped, negative or textual ids give the figures that 1, 2, 3, ... give."""
    truth, found = random_case(8, images=6)
    expected = evaluate_coco(truth, found, evaluator=evaluator).stats
    for rename in (lambda one: one - 5000, lambda one: f"image {one:06d}", lambda one: one * 2**40):
        renamed, moved = copy.deepcopy((truth, found))
        for record in renamed["images"]:
            record["id"] = rename(record["id"])
        for record in renamed["annotations"] + moved:
            record["image_id"] = rename(record["image_id"])
        assert evaluate_coco(renamed, moved, evaluator=evaluator).stats == expected


def test_annotation_ids_of_zero_or_repeated_are_evaluated_and_said(evaluator):
    truth, found = small()
    truth["annotations"][0]["id"] = 0
    result = evaluate_coco(truth, found, evaluator=evaluator)
    assert result.per_category["bbox"]["cat"] == pytest.approx(100.0)
    assert any("id 0" in note for note in result.notes)
    truth["annotations"][0]["id"] = truth["annotations"][1]["id"]
    result = evaluate_coco(truth, found, evaluator=evaluator)
    assert result.per_category["bbox"]["cat"] == pytest.approx(100.0)
    assert any("more than once" in note for note in result.notes)


def as_floats(records, *keys):
    for record in records:
        record.update({key: float(record[key]) for key in keys})


def test_ids_may_be_floats_as_in_pycocotools(evaluator):
    for seed in range(4):
        truth, found = random_case(seed)
        expected = evaluate_coco(truth, found, evaluator=evaluator).to_dict()
        as_floats(found, "image_id", "category_id")
        for _ in range(2):
            result = evaluate_coco(truth, found, evaluator=evaluator)
            assert result.stats["bbox"] == pytest.approx(
                pycocotools_stats(truth, found, "bbox")[0].tolist(), abs=MAX_DIFFERENCE
            )
            assert {**result.to_dict(), "seconds": 0} == {**expected, "seconds": 0}
            as_floats(truth["images"] + truth["categories"], "id")
            as_floats(truth["annotations"], "id", "image_id", "category_id")


def test_detections_of_unlisted_categories_take_no_part_as_in_pycocotools(evaluator):
    for seed in range(6):
        truth, found = random_case(seed, categories=6, crowded=seed % 2 == 0)
        gone = truth["categories"].pop(seed % 5)["id"]
        truth["annotations"] = [one for one in truth["annotations"] if one["category_id"] != gone]
        unlisted = sum(one["category_id"] == gone for one in found)
        result = evaluate_coco(truth, found, evaluator=evaluator)
        assert result.stats["bbox"] == pytest.approx(
            pycocotools_stats(truth, found, "bbox")[0].tolist(), abs=MAX_DIFFERENCE
        )
        assert unlisted and result.detections == len(found) - unlisted
        (note,) = [note for note in result.notes if "does not list" in note]
        assert note.startswith(f"{unlisted} of {len(found)} detections") and f"1 distinct: {gone}" in note
        assert note in format_table(result)


def test_an_error_names_the_record_of_the_file_where_others_take_no_part():
    truth, found = small()
    found = [{**found[0], "category_id": 4}, found[0], {**found[0], "bbox": [1]}]
    with pytest.raises(UserError, match="detections record 2: `bbox`"):
        evaluate_coco(truth, found)


@pytest.mark.parametrize("write", [None, False, 0.0, "0", "false"])
def test_no_crowd_is_no_crowd_however_it_is_written(write, evaluator):
    truth, found = small()
    expected = evaluate_coco(truth, found, evaluator=evaluator).stats
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = write
    result = evaluate_coco(truth, found, evaluator=evaluator)
    assert result.stats == expected
    assert any("a text as `iscrowd`" in note for note in result.notes) == isinstance(write, str)


@pytest.mark.parametrize("write", [True, 1.0, 2, "1", "true"])
def test_crowds_are_crowds_however_they_are_written(write):
    truth, found = random_case(4)
    before = evaluate_coco(truth, found).stats
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = write if annotation["iscrowd"] else 0
    assert evaluate_coco(truth, found).stats == before
    if not isinstance(write, str):
        stats, _ = pycocotools_stats(truth, found, "bbox")
        assert before["bbox"] == pytest.approx(stats.tolist(), abs=MAX_DIFFERENCE)


def test_boxes_over_the_edge_are_evaluated_as_they_are(evaluator):
    truth, found = random_case(7)
    for record in truth["images"]:
        record["width"] = record["height"] = 120  # half of the boxes reach out
    stats, _ = pycocotools_stats(truth, found, "bbox")
    assert evaluate_coco(truth, found, evaluator=evaluator).stats["bbox"] == pytest.approx(stats.tolist(), abs=1e-9)


@pytest.mark.parametrize("side", ["annotations", "detections"])
def test_boxes_in_fractions_of_the_image_are_said(side):
    truth, found = small()
    for record in truth["annotations"] if side == "annotations" else found:
        record["bbox"] = [value / 100 for value in record["bbox"]]
    (note,) = [note for note in evaluate_coco(truth, found).notes if "fractions" in note]
    assert note.startswith(f"{side}: ")


@pytest.mark.parametrize("bad", [[], [3, 3], [3, 3, 20, 20], [3, 3, 20, 20, 3, 20, 7]])
@pytest.mark.parametrize("first", [False, True])
def test_polygons_that_are_none_beside_good_ones(bad, first, evaluator):
    """As pycocotools where it reads them: of seven numbers it takes six, fewer than six have no area."""
    truth, found = random_case(5, masks=True)
    polygons = [one for one in truth["annotations"] if isinstance(one["segmentation"], list)]
    expected = evaluate_coco(truth, found, ("segm",), evaluator).stats["segm"]
    for annotation in polygons:
        good = annotation["segmentation"]
        annotation["segmentation"] = [bad, *good] if first else [*good, bad]
    result = evaluate_coco(truth, found, ("segm",), evaluator).stats["segm"]
    if len(bad) == 7 or not first:
        expected = pycocotools_stats(truth, found, "segm")[0].tolist()
    assert polygons and result == pytest.approx(expected, abs=MAX_DIFFERENCE)


def test_what_the_format_leaves_open():
    truth, found = small()
    for annotation in truth["annotations"]:
        del annotation["area"], annotation["iscrowd"], annotation["id"]
    truth["annotations"].append({"image_id": 99, "category_id": 3, "bbox": [0, 0, 1, 1]})
    result = evaluate_coco(truth, found)
    assert result.figures["bbox"]["APm"] == pytest.approx(100.0)  # 40 x 40, from the box
    assert result.ground_truths == 2
    assert any("have no area" in note for note in result.notes)
    assert any("1 annotations of unlisted images" in note for note in result.notes)


def test_masks_count_their_own_area_even_beside_a_box():
    """A mask of area 100 in a box of 40 x 40 is small, with and without the box in the record."""
    truth, found = random_case(5, masks=True)
    boxed = [{**record, "bbox": [0, 0, 59, 59]} for record in found]
    assert evaluate_coco(truth, boxed, ("segm",)).stats == evaluate_coco(truth, found, ("segm",)).stats


def test_boxes_come_from_masks_where_there_are_none():
    truth, found = random_case(5, masks=True)
    stats, _ = pycocotools_stats(truth, found, "bbox")
    assert evaluate_coco(truth, found).stats["bbox"] == pytest.approx(stats.tolist(), abs=1e-9)


def test_polygons_and_uncompressed_runs_are_masks_too():
    truth = small()[0]
    square = [10, 10, 50, 10, 50, 50, 10, 50]
    for annotation in truth["annotations"]:
        annotation["segmentation"] = [square]
    runs = {"size": [100, 100], "counts": [1010] + [40, 60] * 39 + [40, 5050]}
    for shape in ([square], runs):
        found = [{"image_id": 10, "category_id": 3, "segmentation": shape, "score": 1}]
        assert evaluate_coco(truth, found, ("segm",)).per_category["segm"]["cat"] == pytest.approx(100.0)


def test_more_than_255_masks():
    truth, found = random_case(2, masks=True)
    found = [record for record in found for _ in range(300 // len(found) + 1)]
    stats, _ = pycocotools_stats(truth, found, "segm")
    assert evaluate_coco(truth, found, ("segm",)).stats["segm"] == pytest.approx(stats.tolist(), abs=1e-9)


def test_iou_types_are_found():
    assert list(evaluate_coco(*small(), iou_types=None).figures) == ["bbox"]
    truth, found = random_case(1, masks=True)
    assert list(evaluate_coco(truth, found, None).figures) == ["segm"]
    both = [{**record, "bbox": [0, 0, 5, 5]} for record in found]
    assert list(evaluate_coco(truth, both, None).figures) == ["bbox", "segm"]


def test_class_names():
    result = evaluate_coco(*small(), class_names=["a", "b", "c"])
    assert list(result.per_category["bbox"]) == ["a", "b", "c"]
    with pytest.raises(UserError, match="2 class names .* 3 categories"):
        evaluate_coco(*small(), class_names=["a", "b"])
    truth, found = small()
    truth["categories"][1]["name"] = "cat"
    del truth["categories"][2]["name"]
    assert list(evaluate_coco(truth, found).per_category["bbox"]) == ["cat (id 3)", "cat (id 7)", "90"]
    truth["categories"][1]["name"], truth["categories"][2]["name"] = "dog\r\n", "two\nlines"
    assert list(evaluate_coco(truth, found).per_category["bbox"]) == ["cat", "dog", "two\\nlines"]


def test_table_is_aligned():
    truth, found = random_case(4, categories=40)
    lines = format_table(evaluate_coco(truth, found)).splitlines()
    header, values = lines[0], lines[1]
    assert len(header) == len(values) <= 110
    assert header.split() == list(FIGURES)
    assert values.startswith("bbox") and len(values.split()) == 13
    table = lines[4 : lines.index("", 4)]
    assert len(table) < 40 and sum(line.count("class") for line in table) == 40
    assert len({len(line) for line in table[:-1]}) == 1 and max(map(len, table)) <= 110
    assert "pycocotools 2" in format_table(evaluate_coco(truth, found, evaluator="pycocotools"))


def test_result_is_json():
    result = evaluate_coco(*small()).to_dict()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["bbox"]["AP"] == pytest.approx(50.0)
    assert result["per_category"]["bbox"] == {"cat": pytest.approx(100.0), "dog": None, "cup": 0.0}
    assert (result["images"], result["ground_truths"], result["detections"]) == (2, 2, 1)


def test_compare_evaluators_ends_with_the_reference():
    rows = compare_evaluators(*small())
    assert rows[-1]["evaluator"] == "pycocotools"
    assert all(row["largest_difference"] <= MAX_DIFFERENCE and row["seconds"] > 0 for row in rows)
    assert [row["evaluator"] for row in compare_evaluators(*small(), evaluators=[])] == ["pycocotools"]


def test_columns_keep_file_order():
    """Equal scores are decided by file order, so columns must not reorder."""
    truth, found = random_case(6)
    problem = build_input(truth, found, "bbox")
    assert [problem.image_ids[index] for index in problem.detections.image] == [one["image_id"] for one in found]
    assert problem.detections.score.tolist() == [one["score"] for one in found]
