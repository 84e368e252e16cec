"""Cells at a time: so many, in their order, and none outlives a failure or an interruption. The runs are stand-ins."""

import os
import signal
import sys
import time
from argparse import Namespace

import pytest

from engine.errors import UserError
from studies.index import STUDIES
from studies.lab import side_by_side
from studies.lab.cells import plan

WHOLE = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "begin").write_text(str(time.time()))
time.sleep(0.2)
result = pathlib.Path(sys.argv[2])
result.parent.mkdir(exist_ok=True)
result.write_text(json.dumps({"training_seconds": 60}))
(folder / "end").write_text(str(time.time()))
"""
LONG = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
def save(*_):
    (folder / "saved").write_text("")
    sys.exit(2)
signal.signal(signal.SIGTERM, save)
print("under way", flush=True)
time.sleep(60)
"""


@pytest.fixture
def made(tmp_path):
    return plan(STUDIES["crops"], "cpu", tmp_path / "runs", seeds=2)


@pytest.fixture
def run(made, monkeypatch):
    """(code of a cell's process, jobs, say) → runs all cells."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process's own stays as it is

    def run(code, jobs, say):
        monkeypatch.setattr(side_by_side, "_words", lambda args, cell: ["-c", code, str(cell.folder), str(cell.result)])
        side_by_side.run_side_by_side(made, Namespace(cell=[], resume=False), jobs, say)

    return run


def test_so_many_at_a_time_and_weights_before_what_wants_them(run, made):
    lines = []
    run(WHOLE, 3, lines.append)
    times = {cell: [float((cell.folder / name).read_text()) for name in ("begin", "end")] for cell in made.runs}
    assert len(times) == 8
    for cell, (begin, _) in times.items():
        assert sum(other[0] <= begin < other[1] for other in times.values()) <= 3
        assert cell.source is None or times[cell.source][1] <= begin
    assert len([line for line in lines if ": done" in line]) == 8 and "about 0:0" in "".join(lines)
    lines.clear()
    run(WHOLE, 3, lines.append)
    assert lines == []  # all there


def test_a_failed_run_is_named_and_the_others_save(run, made):
    lines = []
    first = made.runs[0].folder
    code = f"import sys, time\nif sys.argv[1] == {str(first)!r}:\n    time.sleep(1.5); print('no luck'); sys.exit(3)\n"
    with pytest.raises(UserError, match=r"cell 1 \(training, seed 1\) failed with exit code 3; .*--resume"):
        run(code + LONG, 2, lines.append)
    assert "[1] no luck" in lines and (made.runs[1].folder / "saved").exists()


def test_none_outlives_an_interruption(run, made, monkeypatch):
    heard = []

    def sleep(seconds):  # of the loop that looks for ends, in the place of which Ctrl-C comes
        if {line for line in heard if line.endswith("under way")} == {"[1] under way", "[2] under way"}:
            raise KeyboardInterrupt
        time.sleep(seconds)

    monkeypatch.setattr(side_by_side, "time", Namespace(sleep=sleep))
    with pytest.raises(KeyboardInterrupt):
        run(LONG, 2, heard.append)
    assert all((cell.folder / "saved").exists() for cell in made.runs[:2])
    assert "telling 2 runs to save and end" in heard


def test_the_command_of_a_cell_is_the_commands_own(made, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/study.py", "crops", "--jobs", "2"])
    args = Namespace(
        name="crops", scale="cpu", seeds=2, config=None, data="x.zip", output="runs", device="cpu", overrides=["A", "1"]
    )
    words = side_by_side._words(args, made.runs[2])
    assert words[1:] == [
        "crops", "--cell", "3", "--resume", "--scale", "cpu", "--seeds", "2", "--data", "x.zip", "--output", "runs",
        "--device", "cpu", "A", "1",
    ]  # fmt: skip
    assert os.path.basename(words[0]) == "study.py" or os.path.exists(words[0])
