"""What is said of a study, from runs whose files are made up: where a difference is noise, and where it is none."""

import json
from dataclasses import replace

import pytest

from detection.coco_ap.average_precision import evaluate_coco
from engine.errors import UserError
from engine.statistics import pooled_deviation, seed_test, welch
from studies.index import STUDIES
from studies.lab import cells, report
from studies.lab.outcome import config_note, outcome
from studies.lab.study import Row
from studies.lab.words import sentence

IMAGES = 400


def write_run(cell, wrong, seconds=10.0):
    """A whole run whose first guesses are wrong for the images of these numbers."""
    cell.folder.mkdir(parents=True)
    guess = ("cat", "dog")
    records = [
        {"file": f"{i}.jpg", "label": "cat", "top": [[guess[i in wrong], 0.9], [guess[i not in wrong], 0.1]]}
        for i in range(IMAGES)
    ]
    (cell.folder / "class_predictions.json").write_text(json.dumps(records))
    error = 100 * len(wrong) / IMAGES
    result = {
        "classification": {"top1_error": error, "top5_error": 0.0},
        "per_category": {"classification": {"cat": 100 - error, "dog": None}},
        "images": IMAGES,
        "parameters": 270_000,
        "dataset": "somewhere/cifar10.zip val",
        "training_seconds": seconds,
        "hardware": "a processor, 2 cores",
        "versions": {"torch": "2"},
        "command": "python tools/study.py squeeze",
        "iteration": 7,
    }
    (cell.folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def made(tmp_path):
    """(name, [wrong images of each cell, or None for no run]) → its result."""

    def make(name, wrong, seeds=1):
        plan = cells.plan(STUDIES[name], "cpu", tmp_path / "runs", seeds)
        for cell, images in zip(plan.cells, wrong, strict=True):
            if images is not None:
                write_run(cell, images)
        return outcome(plan)

    return make


def page_of(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    return report.page("page", result)


def test_few_images_apart_are_within_noise(made):
    result = made("squeeze", [range(44), range(40), range(41), range(39)])
    [pair] = result["comparisons"]
    assert (pair["votes"], pair["seeds"], pair["verdict"]) == ([0, 4], [1], "noise of images")
    page = page_of(result)
    assert "max pooling is 1.00 points of top-1 error worse than mean pooling: within noise" in page
    assert "Pairs that differ beyond noise: 0 of 1; within noise: 1." in page and "beyond the noise" not in page


def test_many_images_and_little_scatter_are_a_difference(made):
    result = made("squeeze", [range(120), range(40), range(41), range(39)])
    [pair] = result["comparisons"]
    assert pair["votes"] == [0, 80] and pair["p"] == pytest.approx(2 / 2**80) and pair["verdict"] == "difference"
    for run, version in zip(result["rows"][1]["runs"], ("2", "3", "2"), strict=True):
        run["versions"] = {"torch": version}
    page = page_of(result)
    assert "- versions: torch 2; torch 3\n" in page  # of the runs, not of the report
    assert "max pooling is 20.00 points of top-1 error worse than mean pooling: beyond the noise of images" in page
    assert "within noise, " not in page
    assert result["rows"][1]["deviation"]["top1_error"] == pytest.approx(0.25)
    assert "10.00 ± 0.25" in page and "30.00 |" in page


def test_what_seeds_could_turn_round_is_within_noise_however_many_images_say_it(made):
    result = made("squeeze", [range(120), range(40), range(100), range(4)])
    [pair] = result["comparisons"]
    assert pair["p_holm"] < 0.001 and pair["verdict"] == "noise of seeds"
    assert "within noise, other seeds could turn it round" in page_of(result)


def test_where_images_and_means_fall_on_different_sides_there_is_no_claim(made):
    """Each seed of the one is wrong for the same 25 images, each of the other for another 20."""
    other = [range(100 + 20 * seed, 120 + 20 * seed) for seed in range(3)]
    [pair] = made("squeeze", [range(25)] * 3 + other, seeds=3)["comparisons"]
    assert pair["votes"] == [60, 25] and pair["p_holm"] < 0.001 and pair["seed_p"] == 0.0
    assert pair["difference"] == pytest.approx(-1.25) and pair["verdict"] == "noise, votes against means"


def test_what_scatters_from_random_weights_says_nothing_of_what_trains_on(tmp_path):
    """Two rows that train on, ten images apart, and one from random weights, whose seeds are far from each other."""
    rows = (Row("on", goes_on=True), Row("on and on", ("SOLVER.BASE_LR", "0.02"), goes_on=True), Row("anew"))
    study = replace(STUDIES["ratios"], rows=lambda base, scale: rows)
    plan = cells.plan(study, "cpu", tmp_path / "runs", 3)
    wrong = {"on": (40, 41, 42), "on and on": (80, 81, 82), "anew": (100, 250, 380)}
    for cell in plan.cells:
        write_run(cell, range(wrong[cell.row.name][cell.seed - 1] if cell.row else 40))
    pairs = {(pair["first"], pair["second"]): pair["seed_p"] for pair in outcome(plan)["comparisons"]}
    own = [[100 * count / IMAGES for count in counts] for counts in wrong.values()]
    assert pairs["on", "on and on"] == pytest.approx(seed_test(*own[:2], pooled_deviation(own[:2])))
    assert pairs["on", "anew"] == pytest.approx(welch(own[0], own[2]))
    assert pairs["on", "on and on"] < 1e-5 and pairs["on", "anew"] > 0.05


def test_without_a_second_seed_it_is_said(made):
    result = made("bias", [range(40), None, None, range(120)])
    [pair] = result["comparisons"]
    assert pair["verdict"] == "difference on one seed" and pair["seed_p"] is None
    page = page_of(result)
    assert "what other seeds would give is not known" in page and "No row has two seeds" in page
    assert [seed for _, _, seed in result["missing"]] == [2, 3]
    assert "**Not there yet, and in none of the figures:** with biases (seed 2), with biases (seed 3)." in page


def test_seeds_are_compared_with_their_like_and_each_image_votes_once(made):
    wrong = [range(10), range(20), range(30), range(5, 10), range(20), range(20)]
    result = made("squeeze", wrong, seeds=3)
    [pair] = result["comparisons"]
    assert pair["seeds"] == [1, 2, 3]
    # max wrong: 0-9, 0-19, 0-29; mean: 5-9, 0-19, 0-19. Images 0-4 and 20-29 have one seed more for the second.
    assert pair["votes"] == [0, 15] and pair["difference"] == pytest.approx(100 * ((5 + 20 + 20) - 60) / 3 / IMAGES)


def test_the_published_column_stands_beside_ours_with_its_row(made):
    page = page_of(made("reduction", [range(n) for n in (40, 41, 42, 43, 44, 45, 46, 80)]))
    row = next(line for line in page.splitlines() if line.startswith("| r = 32 "))
    cells_of_row = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells_of_row[2:5] == ["table 10: 32", "22.72", "6.20"] and "26.9 M" in cells_of_row
    assert "+0.44" in cells_of_row  # 22.72 less the 22.28 of the reference
    assert page.count("15 comparisons") == 1


def test_a_caveat_of_the_data_is_beside_the_figures(made, tmp_path):
    config = tmp_path / "base.yaml"
    config.write_text(
        "# Something.\n# Note of some.zip: the images are encoded\n#   twice.\n# Command: none\nSEED: 1\n"
    )
    note = config_note(str(config), ["/where/some.zip"])
    assert note == "the images are encoded twice." and config_note(str(config), ["/where/other.zip"]) == ""
    result = made("squeeze", [range(40)] * 4) | {"note": note}
    page = page_of(result)
    assert page.count("† the images are encoded twice.") == 2 and "ours: top-1 error†" in page
    report_list = report.overview({"page": result})
    assert "cifar10.zip val †" in report_list and "the images are encoded twice." in report_list


def test_a_study_of_which_nothing_is_there_has_no_result(made):
    with pytest.raises(UserError, match="none of its 4 cells is there yet"):
        made("squeeze", [None] * 4)


def test_a_sentence_is_seen_from_the_reference():
    pair = {"first": "plain", "second": "SE", "difference": -1.5, "verdict": "noise of images", "p_holm": 0.2}
    assert sentence({"errors": True}, pair, "plain").startswith("SE is 1.50 points of top-1 error better than plain")
    assert sentence({"errors": True}, pair, "SE").startswith("plain is 1.50 points of top-1 error worse than SE")
    assert sentence({"errors": False}, pair, "plain").startswith("SE is 1.50 points of AP worse than plain")


def test_pages_are_made_of_the_jsons_alone(made, tmp_path):
    result = made("squeeze", [range(40)] * 4)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "squeeze.json").write_text(json.dumps(result))
    written = report.write_pages(tmp_path / "results", tmp_path / "docs")
    assert [path.name for path in written] == ["squeeze.md", "README.md"]
    (tmp_path / "results" / "squeeze_of_others.json").write_text(json.dumps(result))  # the same study on other data
    written = report.write_pages(tmp_path / "results", tmp_path / "docs", ["squeeze_of_others"])
    assert [path.name for path in written] == ["squeeze_of_others.md", "README.md"]
    assert "](squeeze_of_others.png)" in written[0].read_text() and "](squeeze.md)" in written[1].read_text()
    assert (tmp_path / "docs" / "squeeze.md").read_text() == report.page("squeeze", result)
    (tmp_path / "results" / "other.json").write_text("{}")
    with pytest.raises(UserError, match="other.json is no study's result"):
        report.write_pages(tmp_path / "results", tmp_path / "docs")


def test_detectors_are_tested_on_images_drawn_anew(tmp_path):
    """Of 60 images with one object each, the one finds that of 20, the other that of 55."""
    box = {"category_id": 1, "bbox": [5, 5, 20, 20]}
    truth = {
        "images": [{"id": i, "height": 50, "width": 50, "file_name": f"{i}.png"} for i in range(60)],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{**box, "id": i + 1, "image_id": i, "area": 400, "iscrowd": 0} for i in range(60)],
    }
    (tmp_path / "val.json").write_text(json.dumps(truth))
    words = ["DATA.VAL.JSON", str(tmp_path / "val.json"), "DATA.VAL.IMAGES", str(tmp_path)]
    plan = cells.plan(STUDIES["detection"], "cpu", tmp_path / "runs", words=words)
    for cell, found in zip(plan.cells, (20, 55), strict=True):
        cell.folder.mkdir(parents=True)
        records = [{**box, "image_id": i, "score": 0.5 + i / 1000} for i in range(found)]
        (cell.folder / "coco_instances_results.json").write_text(json.dumps(records))
        ap = evaluate_coco(truth, records).figures["bbox"]
        about = {"images": 60, "parameters": 1, "dataset": "val", "training_seconds": 1.0, "hardware": "a processor"}
        result = {**about, "bbox": ap, "versions": {}, "command": "python tools/study.py detection", "iteration": 7}
        (cell.folder / "result.json").write_text(json.dumps(result))
    told = outcome(plan)
    [pair] = told["comparisons"]
    low, high = pair["interval"]
    assert low < pair["difference"] < high and pair["p"] == pytest.approx(2 / 1001)
    assert pair["second_is_better"] and pair["verdict"] == "difference on one seed"
    page = page_of(told)
    assert f"| {low:+.2f} to {high:+.2f} | 0.0020 | 0.0020 |" in page and "better than" in page
