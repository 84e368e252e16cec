"""The pages in a browser: no errors, every picture is there, and all of it can be read on a narrow screen."""

import json
from functools import partial

import numpy as np

from classification.compare import ClassifierAnswers
from classification.task import CLASS_FOLDERS
from engine.compare.comparison import compare
from engine.compare.page import write_page
from engine.compare.runs import runs_of_one_task
from engine.report.confusion import plot_confusion
from engine.report.summary import write_summary
from tests.browser import browse  # noqa: F401  (a fixture)
from tests.engine.compare.made_runs import CLASSES, write_class_folders, write_classifier

LONG = "a_run_with_a_name_that_says_all_of_its_settings_0123456789abcdef"


def write_runs(folder):
    """Two runs that differ in four images, with all that a page can be given, and long names in it."""
    data = write_class_folders(folder / "data")
    runs = [
        write_classifier(folder / name, wrong, data, SEED=len(name)) for name, wrong in (("b", [1, 3]), (LONG, [4, 6]))
    ]
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        pairs = [{"truth": 2 * name, "predicted": 3 * name, "count": 4, "share": 50.0} for name in CLASSES]
        result |= {"confused_pairs": pairs, "command": f"python tools/train_classifier.py OUTPUT_DIR {run}"}
        (run / "result.json").write_text(json.dumps(result))
        (run / "predictions").symlink_to(data / "val" / CLASSES[0])
        plot_confusion(np.array([[3, 1, 0], [1, 3, 0]]), CLASSES, run / "plots" / "confusion.png")
    return runs


def assert_readable(found, images):
    for width, told in found.items():
        assert told["errors"] == [] and (told["images"], told["broken"]) == (images, []), f"at {width} pixels"
        assert (told["over"], told["wide"], told["crushed"]) == (0, [], []), f"at {width} pixels"
        assert told["stretched"] == [], f"at {width} pixels"


def test_a_runs_summary(browse, tmp_path):  # noqa: F811
    page = write_summary(write_runs(tmp_path)[1], CLASS_FOLDERS.info)
    assert_readable(browse(page), images=4 + 3)  # predictions; losses, evaluations, confusion


def test_a_comparison(browse, tmp_path):  # noqa: F811
    found = runs_of_one_task(write_runs(tmp_path))
    page = write_page(
        compare(found, CLASS_FOLDERS.info, partial(ClassifierAnswers, task=CLASS_FOLDERS)), tmp_path / "c.html"
    )
    assert_readable(browse(page), images=4 + 2)  # images; top-1 and losses


def test_what_is_wrong_is_found(browse, tmp_path):  # noqa: F811
    inside = (
        '<img src="data:image/png;base64,AAAA" alt="gone"><script>nothing()</script>'
        "<div style='width: 400px'>wide</div><table><tr><td style='display: block; width: 9px'>a name of letters"
    )
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><html><head></head><body>{inside}")
    told = browse(tmp_path / "page.html")
    for one in told.values():
        assert one["errors"][0] == "Uncaught ReferenceError: nothing is not defined" and one["broken"] == ["gone"]
        assert one["crushed"] == ["a name of letters"]
    assert told[360]["wide"] == ['<div style="width: 400px">wide</div>'] and told[360]["over"] > 0
    assert told[1280]["wide"] == [] and told[1280]["over"] == 0
