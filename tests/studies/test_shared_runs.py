"""Runs that two studies share, and single cells that come together, by the command line's own main."""

import json
import os

import pytest

from engine.errors import UserError

TINY = [
    "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 8, "SOLVER.PRECISION", "fp32", "LOG_PERIOD", 1,
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_scenes):
    return write_scenes(tmp_path_factory.mktemp("data") / "images", {"train": 8, "val": 6}, ("bird", "cat", "ship"))


@pytest.fixture
def study(call_study, data, capsys):
    """(name, folder, *words) → what the command says."""

    def study(name, folder, *words):
        call_study(name, folder, "--data", data, "DATA.CACHE", folder / "cache", *TINY, *words)
        return capsys.readouterr().out

    return study


def test_another_study_takes_the_run_that_is_there(study, tmp_path):
    study("squeeze", tmp_path)
    listed = study("excitation", tmp_path, "--list")
    shared = [line.split()[-1] for line in listed.splitlines() if " whole " in line]
    assert len(shared) == 3, listed  # the reference row of both, with its three seeds
    before = {folder: (os.stat(f"{folder}/model_final.pth").st_mtime_ns) for folder in shared}
    output = study("excitation", tmp_path, "--cell", 3)
    assert "whole already" in output and "step" not in output
    assert {folder: (os.stat(f"{folder}/model_final.pth").st_mtime_ns) for folder in shared} == before
    assert not (tmp_path / "results" / "excitation.json").exists()


def test_single_cells_come_together_in_a_report(study, tmp_path):
    study("squeeze", tmp_path, "--cell", 1, "--cell", 2)
    assert not (tmp_path / "results" / "squeeze.json").exists()
    output = study("squeeze", tmp_path, "--report")
    result = json.loads((tmp_path / "results" / "squeeze.json").read_text())
    assert [len(row["runs"]) for row in result["rows"]] == [1, 1] and [cell for cell, *_ in result["missing"]] == [3, 4]
    assert "2 of 4 cells are not there" in output
    with pytest.raises(UserError, match="cells 1 to 4"):
        study("squeeze", tmp_path, "--cell", 5)
