"""Regular files go straight into columns, and what comes of it is what the careful way makes of them."""

import copy
import json
import os
from dataclasses import fields

import numpy as np
import pytest

from detection.coco_ap import reading
from detection.coco_ap.columns import Columns
from detection.coco_ap.reading import read_inputs
from engine.errors import UserError
from soak.mutation import mutate_json
from tests.detection.changes import set_at
from tests.detection.coco_ap.generated import random_case

MASK = {"size": [256, 276], "counts": "n"}


@pytest.fixture
def case():
    return random_case(3, images=6)


@pytest.fixture
def files(tmp_path):
    def write(truth, found):
        paths = [tmp_path / "truth.json", tmp_path / "found.json"]
        for path, value in zip(paths, (truth, found), strict=True):
            path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return paths

    return write


def plain(given):
    """An input as values that can be compared bit for bit."""
    if isinstance(given, Columns):
        return {field.name: plain(getattr(given, field.name)) for field in fields(given)}
    if isinstance(given, np.ndarray):
        return (str(given.dtype), given.shape, given.tobytes())
    return given


def outcome(paths, iou_types):
    try:
        return [{f.name: plain(getattr(one, f.name)) for f in fields(one)} for one in read_inputs(*paths, iou_types)]
    except UserError as error:
        return str(error)


def both_ways(paths, monkeypatch, iou_types=("bbox",)):
    """What comes of two files, by the careful way alone and as they are read; and whether the short way was taken."""
    taken = []
    short = reading._regular_input

    def watched(*arguments, **options):
        given = short(*arguments, **options)
        taken.append(given is not None)
        return given

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_regular_input", lambda *_, **__: None)
        careful = outcome(paths, iou_types)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_regular_input", watched)
        found = outcome(paths, iou_types)
    return careful, found, any(taken)


@pytest.mark.parametrize("iou_types", [("bbox",), None])
def test_regular_files_take_the_short_way(case, files, monkeypatch, iou_types):
    careful, found, short = both_ways(files(*case), monkeypatch, iou_types)
    assert short and found == careful


# What is changed, and whether the files are still regular.
CHANGES = {
    "whole numbers as coordinates": ("found", (0, "bbox"), [1, 2, 30, 40], True),
    "a whole number as score": ("found", (0, "score"), 1, True),
    "a key more": ("found", (0, "extra"), {"a": [1, None]}, True),
    "no crowd said": ("truth", ("annotations", 0, "iscrowd"), KeyError, True),
    "an image without a size": ("truth", ("images", 0, "height"), None, True),
    "categories of one name": ("truth", ("categories", 0, "name"), "class", True),
    "a mask on one side": ("truth", ("annotations", 0, "segmentation"), MASK, True),
    "names beyond ASCII": ("truth", ("categories", 0, "name"), "椅子", True),
    "an annotation id of 0": ("truth", ("annotations", 0, "id"), 0, False),
    "an annotation id twice": ("truth", ("annotations", 0, "id"), 2, False),
    "no annotation id": ("truth", ("annotations", 0, "id"), KeyError, False),
    "no area": ("truth", ("annotations", 0, "area"), KeyError, False),
    "a negative area": ("truth", ("annotations", 0, "area"), -1.0, False),
    "an unlisted image": ("truth", ("annotations", 0, "image_id"), 12345678, False),
    "a crowd in words": ("truth", ("annotations", 0, "iscrowd"), "true", False),
    "an image id of text": ("truth", ("images", 0, "id"), "one", False),
    "an image id as a float": ("found", (0, "image_id"), 1.0, False),
    "an id of 100 digits": ("found", (0, "category_id"), 10**100, False),
    "an unlisted category": ("found", (0, "category_id"), 1000, False),
    "an infinite coordinate": ("found", (0, "bbox", 0), float("inf"), False),
    "a coordinate beyond all images": ("found", (0, "bbox", 0), 1e300, False),
    "a negative width": ("found", (0, "bbox", 2), -1, False),
    "three numbers": ("found", (0, "bbox"), [1, 2, 3], False),
    "no box": ("found", (0, "bbox"), KeyError, False),
    "a score of text": ("found", (0, "score"), "0.5", False),
    "a truth value as score": ("found", (0, "score"), True, False),
    "a score of NaN": ("found", (0, "score"), float("nan"), False),
    "no image": ("truth", ("images",), [], False),
    "no annotation": ("truth", ("annotations",), [], False),
    "no list of categories": ("truth", ("categories",), KeyError, False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_out_of_the_ordinary_is_read_with_care(case, files, monkeypatch, change):
    side, path, value, regular = CHANGES[change]
    set_at(case[0] if side == "truth" else case[1], path, value)
    careful, found, short = both_ways(files(*case), monkeypatch)
    assert found == careful and short == regular


def test_boxes_in_another_form_are_said_by_either_way(case, files, monkeypatch):
    truth, found = case
    for record in (*truth["annotations"], *found):
        record["bbox"] = [one / 1000 for one in record["bbox"]]
    careful, seen, short = both_ways(files(truth, found), monkeypatch)
    assert short and seen == careful and len(seen[0]["notes"]) == 2


def test_masks_on_both_sides_are_found_by_either_way(files, monkeypatch):
    truth, found = random_case(3, masks=True)
    for record in found:
        record["bbox"] = [1, 2, 3, 4]
    careful, found, short = both_ways(files(truth, found), monkeypatch, None)
    assert not short and found == careful and [one["iou_type"] for one in found] == ["bbox", "segm"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'[{"image_id": 1, "\xff": 2}]', b"\xff\xfe[\x00]\x00", b"[" * 9999]
)
def test_other_contents_are_for_the_careful_way(case, files, monkeypatch, content):
    careful, found, short = both_ways(files(case[0], content), monkeypatch)
    assert not short and found == careful


def test_a_pipe_is_read_once(case, files):
    paths = files(*case)
    expected = outcome(paths, ("bbox",))
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        with open(write, "wb") as end:
            end.write(paths[1].read_bytes())
        os._exit(0)
    os.close(write)
    found = outcome((paths[0], f"/dev/fd/{read}"), ("bbox",))
    os.close(read)
    assert found == expected


@pytest.mark.parametrize("side", [0, 1])
def test_damaged_files_come_out_as_by_the_careful_way(case, files, monkeypatch, side):
    random = np.random.default_rng(side)
    ways = set()
    for _ in range(150):
        given = list(copy.deepcopy(case))
        given[side] = mutate_json(given[side], random)
        careful, found, short = both_ways(files(*given), monkeypatch)
        assert found == careful
        ways.add(short)
    assert ways == {True, False}
