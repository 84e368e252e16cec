"""What an analysis leaves in a folder."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from detection.analysis import confusion
from detection.analysis.analyse import analyse_detections
from detection.analysis.mistake_picture import PREDICTED, TRUTH, draw_mistake
from detection.thresholds import Thresholds, parse_threshold
from engine.errors import UserError
from tests.detection.coco_ap.generated import random_case


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    truth, found = random_case(3, images=8, categories=4)
    for record in found:
        record["score"] = float(1 / (1 + np.exp(-record["score"])))
    images = tmp_path_factory.mktemp("images")
    for image in truth["images"][1:]:  # the first one is not there
        pixels = np.zeros((image["height"], image["width"], 3), np.uint8)
        Image.fromarray(pixels).save(images / image["file_name"])
    run = tmp_path_factory.mktemp("run")
    return truth, images, run, analyse_detections(truth, found, run, images, source="a set")


def test_files_and_pictures(case):
    truth, images, run, figures = case
    content = {
        name: json.loads((run / "analysis" / f"{name}.json").read_text())
        for name in ("thresholds", "precision_recall", "confusion", "mistakes")
    }
    names = [category["name"] for category in sorted(truth["categories"], key=lambda category: category["id"])]
    assert content["thresholds"] == figures["thresholds"] and content["thresholds"]["data"] == "a set"
    assert content["confusion"]["classes"] == [*names, "background"]
    matrix = np.array(content["confusion"]["counts"])
    assert matrix.shape == (5, 5)
    assert {pair["count"] for pair in figures["confused_pairs"]} <= set(matrix[:-1, :-1].ravel().tolist())
    assert [len(row or ()) for row in content["precision_recall"]["precision"].values()] == [101, 101, 101, 0]
    mistakes, lost = content["mistakes"]["mistakes"], truth["images"][0]["file_name"]
    shown = [mistake for mistake in mistakes if mistake["picture"]]
    assert len(shown) == content["mistakes"]["pictures"] > 3 and lost in {mistake["file"] for mistake in mistakes}
    assert lost not in {mistake["file"] for mistake in shown}
    for mistake in shown:
        with Image.open(run / "analysis" / mistake["picture"]) as picture:
            assert max(picture.size) == 320
        drawn = draw_mistake(SimpleNamespace(file=mistake["file"], details=mistake), images)
        for colour, box in ((PREDICTED, mistake["box"]), (TRUTH, mistake["truth_box"])):
            assert (drawn == colour).all(axis=2).any() == (box is not None)
    for plot in ("precision_recall", "confusion"):
        with Image.open(run / "plots" / f"{plot}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_the_set_is_read_once_and_each_object_decided_on_once(tmp_path, monkeypatch):
    """Files of COCO's size take seconds, and so do its confusions."""
    box = {"image_id": 1, "category_id": 1, "bbox": [1.0, 1.0, 9.0, 9.0]}
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 20}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{**box, "id": 1, "area": 81.0, "iscrowd": 0}],
    }
    paths = {"truth": truth, "found": [{**box, "score": 0.9}, {**box, "score": 0.9}]}
    for name, content in paths.items():
        (tmp_path / name).write_text(json.dumps(content))
    done, decide, read = [], confusion.decide, Path.read_bytes
    monkeypatch.setattr(confusion, "decide", lambda *given: done.append("decided") or decide(*given))
    monkeypatch.setattr(Path, "read_bytes", lambda path: done.append(path.name) or read(path))
    monkeypatch.setattr(
        "detection.coco_ap.reading.open", lambda path, mode: done.append(path.name) or open(path, mode), raising=False
    )
    analyse_detections(tmp_path / "truth", tmp_path / "found", tmp_path)
    assert sorted(done) == ["decided", "found", "truth"]
    (mistake,) = json.loads((tmp_path / "analysis" / "mistakes.json").read_text())["mistakes"]
    assert (mistake["kind"], mistake["file"]) == ("found twice", "a.png")


def test_without_objects_there_is_nothing_to_draw(case, tmp_path):
    truth, *_ = case
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "confusion.png").touch()  # of an earlier evaluation
    figures = analyse_detections({**truth, "annotations": []}, [], tmp_path)
    assert not list((tmp_path / "plots").iterdir()) and figures["confused_pairs"] == []
    assert {entry["threshold"] for entry in figures["thresholds"]["classes"].values()} == {None}


def test_thresholds_are_read_back(case):
    *_, run, figures = case
    stated = figures["thresholds"]
    own = {name: entry["threshold"] for name, entry in stated["classes"].items() if entry["threshold"] is not None}
    assert own and len(own) < 4
    for given, of in (("best", lambda: stated), (run / "analysis" / "thresholds.json", None)):
        thresholds = parse_threshold(given, of, "model.pth")
        names = list(stated["classes"])
        assert thresholds.each(names).tolist() == [own.get(name, 0.5) for name in names]
        assert thresholds.lowest() == min(0.5, *own.values())
    with pytest.raises(UserError, match="other classes"):
        thresholds.each(["cat"])


@pytest.mark.parametrize(
    "given, stated, words",
    [
        (1.5, None, "between 0 and 1"),
        ("-0.1", None, "between 0 and 1"),
        ("nan", None, "between 0 and 1"),
        ("best", None, "model.pth states no thresholds"),
        ("best", [3], "model.pth holds no thresholds"),
        ("best", {"otherwise": 0.5, "classes": {"cat": 3}}, "holds no thresholds"),
        ("best", {"otherwise": 0.5, "classes": {"cat": {"threshold": 7}}}, "between 0 and 1"),
        ("bset", None, "there is no file bset"),
    ],
)
def test_what_is_no_threshold_is_refused(given, stated, words):
    with pytest.raises(UserError, match=words):
        parse_threshold(given, lambda: stated, "model.pth")
    assert parse_threshold("0.25", lambda: stated, "model.pth") == Thresholds(0.25)
