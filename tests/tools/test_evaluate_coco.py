"""The command line: files in, table and JSON out, errors without a traceback."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import main_guard

TOOL = Path(__file__).resolve().parents[2] / "tools" / "evaluate_coco.py"


@pytest.fixture
def files(tmp_path):
    truth = {
        "images": [{"id": 1, "height": 50, "width": 50}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0},
        ],
    }
    found = [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 20, 20], "score": 0.5}]
    paths = tmp_path / "truth.json", tmp_path / "found.json"
    for path, value in zip(paths, (truth, found), strict=True):
        path.write_text(json.dumps(value))
    return paths


@pytest.fixture
def tool(load_tool):
    module = load_tool("evaluate_coco")
    return lambda *arguments: main_guard(lambda: module.main([str(one) for one in arguments]))


def test_real_command_line(files, tmp_path):
    out = tmp_path / "new" / "out.json"
    command = [sys.executable, str(TOOL), *map(str, files), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "AP50" in done.stdout and "100.00" in done.stdout and "dog" in done.stdout
    assert "1 images, 1 annotations, 1 detections" in done.stdout
    written = json.loads(out.read_text())
    assert written["bbox"]["AP"] == pytest.approx(100.0)
    assert written["per_category"]["bbox"]["dog"] is None
    assert written["evaluator"] in done.stdout
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]  # nothing temporary left


def test_names_beyond_the_consoles_letters_come_as_escapes(tool, files, tmp_path, monkeypatch):
    truth, found = files
    truth.write_text(truth.read_text().replace('"dog"', '"\\u884c\\u4eba"'))
    out, printed = tmp_path / "out.json", io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="cp1252", write_through=True))
    assert tool(truth, found, "--json", out) == 0
    assert rb"\u884c\u4eba" in printed.getvalue()
    assert "行人" in json.loads(out.read_text())["per_category"]["bbox"]


def test_figures_are_written_before_they_are_printed(tool, files, tmp_path, monkeypatch):
    def fail(*arguments, **more):
        raise RuntimeError("no console")

    monkeypatch.setattr("builtins.print", fail)
    with pytest.raises(RuntimeError, match="no console"):
        tool(*files, "--json", tmp_path / "out.json")
    assert (tmp_path / "out.json").exists()


def test_an_analysis_needs_no_torch(files, tmp_path):
    """In a process of its own, in which no other test has imported it."""
    words = [*map(str, files), "--no-categories", "--analysis", str(tmp_path / "out")]
    script = (
        f"import runpy, sys; sys.argv = {['evaluate_coco.py', *words]!r}\n"
        f"try:\n    runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"written: {tmp_path / 'out'}" in done.stdout
    confusion = json.loads((tmp_path / "out" / "analysis" / "confusion.json").read_text())
    assert confusion["counts"] == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_compare_and_options(tool, files, capsys):
    assert tool(*files, "--compare", "--no-categories", "--evaluator", "pycocotools") == 0
    printed = capsys.readouterr().out
    assert "largest difference 0.0e+00" in printed
    assert "AP of each category" not in printed


def test_errors_are_sentences(tool, files, tmp_path, capsys):
    truth, found = files
    found.write_text('[{"image_id": 1,]')
    assert tool(truth, found, "--json", tmp_path / "out.json") == 2
    assert "found.json is not valid JSON: line 1, column 17" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    assert tool(truth, tmp_path / "absent.json") == 2
    assert tool(*files, "--images", tmp_path) == 2
    assert "there is no file" in capsys.readouterr().err


def test_unwritable_json_is_said(tool, files, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert tool(*files, "--json", tmp_path / "file" / "out.json") == 2
    assert "out.json: Not a directory" in capsys.readouterr().err
