"""Runs held against each other: what can be compared is, and what cannot is named."""

import json
from functools import partial

import pytest

from classification.compare import ClassifierAnswers
from classification.task import CLASS_FOLDERS
from engine.compare.comparison import compare
from engine.compare.page import describe, write_page
from engine.compare.runs import runs_of_one_task, short_names
from engine.errors import UserError
from tests.engine.compare.made_runs import write_class_folders, write_classifier, write_detector
from tests.engine.report.test_summary import check

TASK = CLASS_FOLDERS.info


@pytest.fixture
def data(tmp_path):
    return write_class_folders(tmp_path / "data")


def compared(*folders, images=12):
    return compare(runs_of_one_task(folders), TASK, partial(ClassifierAnswers, task=CLASS_FOLDERS), images)


def test_every_run_stands_against_the_first_by_the_images_that_one_alone_has_right(tmp_path, data):
    runs = [write_classifier(tmp_path / name, wrong, data) for name, wrong in (("a", [0, 1, 2]), ("b", [2]), ("c", []))]
    found = compared(*runs)
    assert not found.problems and [pair.second for pair in found.pairs] == ["b", "c"]
    first, second = found.pairs
    assert first.difference == 25 and first.test.p == 0.5  # McNemar: 0 to 2
    assert second.difference == 37.5 and second.test.p == 0.25  # 0 to 3
    assert (first.p, second.p) == (0.5, 0.5)  # Holm: the smaller twice, and no corrected one below it
    assert "Within the noise of the images: a alone is right on 0 images, b alone on 2" in first.verdict
    assert found.figures[0] == ["", "a", "b", "c"] and ["top-1 accuracy", "62.50", "87.50", "100.00"] in found.figures
    assert found.classes[1:] == [
        ["coast", "50.0", "75.0", "100.0", "50.0"],
        ["street", "75.0", "100.0", "100.0", "25.0"],
    ]
    assert "b: 25.00 points of top-1 accuracy more than a." in describe(found)


def test_a_difference_beyond_the_noise_is_called_one(tmp_path, data):
    write_class_folders(data, 40)
    runs = [write_classifier(tmp_path / name, wrong, data, 40) for name, wrong in (("a", range(12)), ("b", []))]
    [pair] = compared(*runs, images=0).pairs
    assert pair.p == pytest.approx(2 / 2**12)
    assert pair.verdict.startswith("Beyond the noise of the images") and "other seeds" in pair.verdict


def test_images_where_the_runs_differ_most_come_first(tmp_path, data):
    """The further the probabilities of the truth are apart, which grows with an image's number."""
    runs = [write_classifier(tmp_path / name, wrong, data) for name, wrong in (("a", [1, 4, 6]), ("b", [4]))]
    found = compared(*runs)
    assert [case.image for case in found.cases] == ["coast/6.png", "street/1.png"]
    assert (found.differing, found.images) == (2, 8)
    case = found.cases[0]
    assert case.truth.words == "truth: coast" and (case.truth.picture == 25 * 6).all()
    assert (case.said["a"].words, case.said["a"].right) == ("street", False)
    assert (case.said["b"].words, case.said["b"].right) == ("coast", True)
    assert case.said["b"].bars[0] == ("coast", pytest.approx(66))
    assert len(compared(*runs, images=1).cases) == 1


def test_the_page_holds_all_of_it_and_loads_nothing(tmp_path, data):
    names = ("<a>", "b")
    runs = [
        write_classifier(tmp_path / n, w, data, SEED=s) for n, w, s in zip(names, ([1, 6], [4]), (1, 2), strict=True)
    ]
    page = check(write_page(compared(*runs), tmp_path / "out" / "comparison.html"))
    for words in ("<a>", "12.50 points", "McNemar", "coast/6.png", "truth: coast", "✗ street", "SEED", str(runs[1])):
        assert words in page.words, words
    assert page.tags.count("img") == 2 + 3  # top-1 and losses; three images, which the runs say in words
    assert "To know beforehand" not in page.words


def test_an_unfinished_run_is_named_and_its_curves_and_settings_are_shown(tmp_path, data):
    runs = [write_classifier(tmp_path / name, [1], data, SEED=s) for s, name in enumerate("abc")]
    (runs[0] / "result.json").unlink()
    (runs[0] / "checkpoint_0000020.pth").write_bytes(b"half of one")
    with pytest.raises(UserError, match="(?s)needs two runs.*a is left out: no run that can be compared"):
        runs_of_one_task(runs[:2])
    found = runs_of_one_task(runs)
    assert found.folders == runs[1:]  # nothing says of what task it is
    found.folders.insert(0, runs[0])
    told = compare(found, TASK, partial(ClassifierAnswers, task=CLASS_FOLDERS))
    assert any(line.startswith("a is unfinished") and "result.json" in line for line in told.problems)
    assert told.figures[0] == ["", "b", "c"] and [pair.first for pair in told.pairs] == ["b"]
    assert ["SEED", "0", "1", "2"] in told.settings
    assert "a is unfinished" in check(write_page(told, tmp_path / "c.html")).words


def test_runs_of_another_task_are_named_and_left_out(tmp_path, data):
    ours = [write_classifier(tmp_path / name, [1], data) for name in "ab"]
    other = write_detector(tmp_path / "d", [], "nowhere.json", "nowhere", 0.0)
    found = runs_of_one_task([ours[0], other, ours[1], ours[0]])
    assert found.folders == ours and found.task == "classification"
    assert "d is left out: its task is detection, and the first run's is classification" in "\n".join(found.problems)
    assert f"{ours[0]} is named twice" in "\n".join(found.problems)
    with pytest.raises(UserError, match="(?s)two runs of one task.*its task is detection"):
        runs_of_one_task([ours[0], other])
    with pytest.raises(UserError, match="no run folder .*nowhere"):
        runs_of_one_task([ours[0], tmp_path / "nowhere"])


def test_other_validation_sets_are_named_and_not_tested(tmp_path, data):
    write_class_folders(data, 10)
    runs = [write_classifier(tmp_path / name, [1], data, images) for name, images in (("a", 8), ("b", 10), ("c", 8))]
    found = compared(*runs)
    assert [pair.test is None for pair in found.pairs] == [True, False]
    assert found.pairs[0].verdict == (
        "Not tested over the images: it was evaluated on other images: 2 were seen by one run alone."
    )
    assert "evaluated on other images: 2" in check(write_page(found, tmp_path / "c.html")).words


def test_answers_that_are_missing_damaged_or_not_the_results_are_named(tmp_path, data):
    runs = [write_classifier(tmp_path / name, [1], data) for name in "abcd"]
    (runs[1] / "class_predictions.json").unlink()
    (runs[2] / "class_predictions.json").write_text('[{"file": "x"}]')
    result = json.loads((runs[3] / "result.json").read_text())
    result["classification"]["top1"] = 50.0
    (runs[3] / "result.json").write_text(json.dumps(result))
    found = compared(*runs)
    told = "\n".join(found.problems)
    assert "b: its answers cannot be compared image by image: a run's predictions: there is no file" in told
    assert "does not hold an evaluation's predictions (KeyError: 'label')" in told
    assert "d: its answers are not those of its result.json" in told and "87.50, and it says 50.00" in told
    assert all(pair.test is None for pair in found.pairs)
    write_page(found, tmp_path / "c.html")


def test_without_the_images_the_figures_are_compared_and_that_is_said(tmp_path):
    runs = [write_classifier(tmp_path / name, wrong, tmp_path / "gone") for name, wrong in (("a", [1]), ("b", []))]
    found = compared(*runs)
    assert not found.cases and found.pairs[0].test.p == 1.0
    assert any(line.startswith("the images are not shown: ") and "gone" in line for line in found.problems)


def test_names_are_as_short_as_they_can_be_and_tell_apart(tmp_path):
    folders = [tmp_path / "a" / "evaluation", tmp_path / "b" / "evaluation", tmp_path / "c"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert short_names(folders[:2]) == ["a/evaluation", "b/evaluation"]
    assert short_names(folders[1:]) == ["b/evaluation", "c"]
