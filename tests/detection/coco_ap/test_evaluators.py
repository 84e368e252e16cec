"""The evaluators give pycocotools' arrays on generated cases, and "auto" takes none but these very versions."""

import logging
import multiprocessing
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import cocoeval

from detection.coco_ap import evaluators as module
from detection.coco_ap.average_precision import evaluate_coco
from detection.coco_ap.evaluators import (
    EVALUATORS,
    REFERENCE,
    choose_evaluator,
    evaluate_with,
    evaluator_version,
    largest_difference,
)
from engine.errors import UserError
from tests.detection.coco_ap.generated import hard_case, random_case
from tests.detection.coco_ap.reference import MAX_DIFFERENCE, pycocotools_stats

ROOT = Path(__file__).resolve().parents[3]
FASTER = [name for name in EVALUATORS if name != REFERENCE]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_figures_equal_pycocotools(iou_type, evaluator):
    for seed in range(60 if iou_type == "bbox" else 30):
        shape = {"images": 4 + seed % 4, "categories": 2 + seed % 5, "crowded": seed % 10 == 0}
        truth, found = random_case(seed, masks=iou_type == "segm", **shape)
        stats, _ = pycocotools_stats(truth, found, iou_type)
        result = evaluate_coco(truth, found, (iou_type,), evaluator)
        assert result.stats[iou_type] == pytest.approx(stats.tolist(), abs=MAX_DIFFERENCE), f"seed {seed}"


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_arrays_equal_pycocotools_element_by_element(iou_type, evaluator):
    assert difference_on_the_hard_case(iou_type, lambda case: evaluate_with(evaluator, case)) <= MAX_DIFFERENCE


def difference_on_the_hard_case(iou_type, evaluate):
    case = hard_case(iou_type)
    return largest_difference(evaluate(case), evaluate_with(REFERENCE, case))


def without_crowds(case):
    return replace(case, ground_truth=replace(case.ground_truth, crowd=case.ground_truth.crowd * False))


def with_ties_reversed(case):
    found = case.detections
    order = np.arange(len(found))[::-1]
    fields = {name: getattr(found, name)[order] for name in ("image", "category", "box", "area", "crowd", "score")}
    mask = None if found.mask is None else found.mask[::-1]
    return replace(case, detections=replace(found, mask=mask, **fields))


def with_open_area_limits(case):
    truth = case.ground_truth
    at_limit = np.isin(truth.area, [32.0**2, 96.0**2])
    return replace(case, ground_truth=replace(truth, area=truth.area + at_limit))


def with_detection_areas_forgotten(case):
    found = case.detections
    return replace(case, detections=replace(found, area=np.zeros(len(found))))


def with_looser_overlaps(case):
    found = case.detections
    return replace(case, detections=replace(found, box=found.box * [1, 1, 1 + 1e-6, 1]))


MISTAKES = [without_crowds, with_ties_reversed, with_open_area_limits, with_detection_areas_forgotten]


@pytest.mark.parametrize(
    ("iou_type", "mistake"),
    [("bbox", one) for one in [*MISTAKES, with_looser_overlaps]] + [("segm", one) for one in MISTAKES],
)
def test_the_hard_case_tells_a_wrong_evaluator(iou_type, mistake):
    wrong = difference_on_the_hard_case(iou_type, lambda case: evaluate_with(REFERENCE, mistake(case)))
    assert wrong > 1000 * MAX_DIFFERENCE


@pytest.mark.parametrize("limit", [99, 101])
def test_the_hard_case_tells_a_wrong_limit_of_detections(monkeypatch, limit):
    original = cocoeval.Params.setDetParams

    def with_limit(params):
        original(params)
        params.maxDets = [1, 10, limit]

    def limited(case):
        with monkeypatch.context() as patch:
            patch.setattr(cocoeval.Params, "setDetParams", with_limit)
            return evaluate_with(REFERENCE, case)

    assert difference_on_the_hard_case("bbox", limited) > 1000 * MAX_DIFFERENCE


@pytest.mark.parametrize("name", FASTER)
def test_the_tested_version_is_the_one_installed_and_pinned(name):
    """So the comparisons above ran with it. After a move to another version: run them, and write it in all places."""
    pytest.importorskip(EVALUATORS[name].module)
    pin = f"{name}=={EVALUATORS[name].tested_version}"
    assert evaluator_version(name) == EVALUATORS[name].tested_version
    assert pin in (ROOT / "constraints.txt").read_text().splitlines()
    assert re.findall(rf'"({name}\b[^"]*)"', (ROOT / "pyproject.toml").read_text()) == [pin]


def test_auto_takes_the_first_in_its_tested_version(monkeypatch, caplog):
    choose = choose_evaluator.__wrapped__
    installed = {name: one.tested_version for name, one in EVALUATORS.items()}
    monkeypatch.setattr(module, "evaluator_version", lambda name: installed[name])
    monkeypatch.setattr(module.importlib, "import_module", lambda name: None)
    for name in FASTER:
        assert choose() == name
        assert len(caplog.records) == FASTER.index(name)  # a line where one was passed over
        installed[name] += ".post1"
    caplog.clear()
    assert choose() == REFERENCE
    (line,) = caplog.messages
    for name in FASTER:
        tested = EVALUATORS[name].tested_version
        assert f"{name} is {tested}.post1 ({tested} is the tested version)" in line


def test_auto_survives_evaluators_that_are_absent_or_broken(monkeypatch, caplog):
    no_module = EVALUATORS[REFERENCE]._replace(module="no_such_module_anywhere")
    evaluators = {
        "absent": no_module._replace(tested_version="1.0"),
        "numpy": no_module._replace(tested_version=np.__version__),  # installed, and its module does not import
        REFERENCE: EVALUATORS[REFERENCE],
    }
    monkeypatch.setattr(module, "EVALUATORS", evaluators)
    assert choose_evaluator.__wrapped__() == REFERENCE
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "absent is not installed (1.0 is the tested version)" in record.getMessage()
    assert f"numpy {np.__version__} cannot be imported (No module named" in record.getMessage()


def test_auto_is_what_an_evaluation_uses():
    assert evaluate_coco(*random_case(0)).evaluator == choose_evaluator()
    with pytest.raises(UserError, match="unknown evaluator 'best'"):
        evaluate_coco(*random_case(0), evaluator="best")


def in_a_fork(queue, case):
    results = []
    for evaluator in ("auto", *EVALUATORS):
        try:
            result = evaluate_coco(*case, evaluator=evaluator)
            results.append((evaluator, result.evaluator, result.stats))
        except UserError as error:
            results.append((evaluator, str(error), None))
    queue.put(results)


def test_a_fork_is_not_kept_waiting_for_threads_that_stayed_behind():
    case = random_case(0)
    expected = {name: evaluate_coco(*case, evaluator=name).stats for name in EVALUATORS}
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=in_a_fork, args=(queue, case), daemon=True)
    process.start()
    try:
        results = queue.get(timeout=60)
    finally:
        process.kill()
        process.join()
    assert [evaluator for evaluator, _, _ in results] == ["auto", *EVALUATORS]
    for evaluator, said, stats in results:
        if evaluator == "hotcoco":
            assert "hotcoco cannot be used here" in said and "Use auto" in said
        else:
            assert said in EVALUATORS and said != "hotcoco"
            assert stats == expected[said]
