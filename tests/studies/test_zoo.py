"""The model zoo is made of the results, and the committed files are what its command makes."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from engine.errors import UserError
from se_backbones.registry import families
from studies.zoo.rows import read_rows
from studies.zoo.write import TIMM_COLUMNS, write_zoo, zoo_files

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def files():
    return zoo_files(RESULTS)


def test_the_committed_files_are_what_the_command_makes(files):
    """Otherwise: python tools/model_zoo.py"""
    there = {path.name: path.read_text() for path in (ROOT / "docs" / "model_zoo.md", *RESULTS.glob("results-*.csv"))}
    assert there == files


def test_the_csvs_have_timms_columns_and_the_results_figures(files):
    rows = list(csv.DictReader(files["results-miniplaces20.csv"].splitlines()))
    assert tuple(rows[0]) == TIMM_COLUMNS
    found = {row["model"]: row for row in rows}
    result = json.loads((RESULTS / "miniplaces_se_resnet18.json").read_text())
    row = found["se_resnet18.miniplaces_se_resnet18"]
    assert float(row["top1"]) == result["places365"]["top1"] and float(row["top5"]) == result["places365"]["top5"]
    for name in ("top1", "top5"):
        assert all(float(row[name]) + float(row[f"{name}_err"]) == pytest.approx(100) for row in rows)
    assert row["param_count"] == f"{result['parameters'] / 1e6:.2f}"
    assert (row["img_size"], row["crop_pct"], row["interpolation"]) == ("144", "1.000", "bilinear")
    ten = found["se_resnet18.miniplaces_se_resnet18_ten_crops"]
    assert (ten["img_size"], ten["crop_pct"]) == ("128", f"{128 / 144:.3f}")  # as its command has it
    assert [float(row["top1"]) for row in rows] == sorted((float(row["top1"]) for row in rows), reverse=True)


def test_every_run_of_the_results_is_there_once():
    rows = read_rows(RESULTS)
    assert len({(row.data, row.model) for row in rows}) == len(rows)
    means = {
        (100 - row["mean"]["top1_error"], row["parameters"])
        for path in (RESULTS / "studies").glob("*.json")
        for row in json.loads(path.read_text())["rows"]
        if row["runs"]
    }
    assert means <= {(row.figures.get("top1"), row.parameters) for row in rows}
    three = next(row for row in rows if row.model == "resnet20_cifar.cifar")
    assert three.seeds == 3 and three.deviation["top1"] > 0 and (three.data, three.images) == ("cifar10", 10_000)
    detector = next(row for row in rows if row.model == "se_resnet50.bccd_se_r50")
    assert (detector.data, detector.size, detector.detector) == ("bccd", 256, True)
    families = json.loads((RESULTS / "detectors_of_families.json").read_text())["architectures"]
    found = {row.model: row for row in rows if row.source == "detectors_of_families.json"}
    assert found.keys() == {f"{name}.detectors_of_families" for name in families}
    row, figures = found["se_vgg16.detectors_of_families"], families["se_vgg16"]
    assert (row.data, row.images, row.size, row.detector) == ("shapes", 100, 160, True)
    assert row.figures == {name: figures[name] for name in ("AP", "AP50", "AP75")}
    assert row.parameters == figures["parameters"]


def test_all_published_weights_are_named(files):
    for family in families():
        for name, source in family.published.items():
            assert f"| `{name}` | `{source}` |" in files["model_zoo.md"]


def test_a_set_without_results_loses_its_file(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(RESULTS / "bccd_r50.json", results)
    (results / "results-old.csv").write_text("model\n")
    written = write_zoo(results, tmp_path / "docs")
    assert sorted(path.name for path in written) == ["model_zoo.md", "results-bccd.csv"]
    assert sorted(path.name for path in results.iterdir()) == ["bccd_r50.json", "results-bccd.csv"]


def test_a_result_whose_config_cannot_be_told_is_refused(tmp_path):
    content = json.loads((RESULTS / "bccd_r50.json").read_text()) | {"command": "python my_script.py"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names no --config: python my_script\.py"):
        read_rows(tmp_path)
