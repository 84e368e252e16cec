"""A study through the real command line: killed and gone on with, side by side, and by two processes."""

import json
import os
import signal
import time

import pytest
import torch

from engine.train.checkpoint import load_checkpoint

STEPS = 6
TINY = [
    "SOLVER.MAX_ITER", STEPS, "SOLVER.IMS_PER_BATCH", 8, "SOLVER.CHECKPOINT_EPOCHS", "0.7", "LOG_PERIOD", 1, "--device",
    "cpu", "SOLVER.KEEP_CHECKPOINTS", 9,
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_scenes):
    return write_scenes(tmp_path_factory.mktemp("data") / "images", {"train": 8, "val": 6}, ("bird", "cat", "ship"))


def study(name, data, folder, *words):
    return [
        "tools/study.py", name, "--data", data, "--output", folder / "runs", "--json", folder / f"{name}.json",
        "--docs", folder / "docs", "DATA.CACHE", folder / "cache", *TINY, *words,
    ]  # fmt: skip


def weights(folder):
    return {path.parent.name: load_checkpoint(path)["model"] for path in (folder / "runs").glob("*/model_final.pth")}


@pytest.fixture(scope="module")
def whole(run, data, tmp_path_factory):
    """A study of two rows that nothing interrupted."""
    folder = tmp_path_factory.mktemp("studies")
    return folder, run(*study("squeeze", data, folder))


def test_a_killed_study_goes_on_as_if_nothing_had_happened(start, run, whole, data, tmp_path):
    words = study("squeeze", data, tmp_path)
    process = start(*words, start_new_session=True)
    deadline = time.time() + 200
    second = None  # the run that is under way while one is whole
    while second is None:
        assert process.poll() is None and time.time() < deadline, "no second run was begun"
        time.sleep(0.01)
        done = {path.parent for path in (tmp_path / "runs").glob("*/result.json")}
        saved = (tmp_path / "runs").glob("*/checkpoint_0000002.pth")
        second = next((path for path in saved if done and path.parent not in done), None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (second.parent / "model_final.pth").exists(), "the run was over before it was killed"
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/result.json")}
    assert "go on from it with --resume" in run(*words, code=2).lower()
    output = run(*words, "--resume")
    assert "going on after step" in output and "cell 1 of 4" in output
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    ours, theirs = weights(tmp_path), weights(whole[0])
    assert ours.keys() == theirs.keys() and len(ours) == 4
    for name in ours:
        assert all(torch.equal(ours[name][key], theirs[name][key]) for key in theirs[name]), name
    results = [json.loads((folder / "squeeze.json").read_text()) for folder in (tmp_path, whole[0])]
    assert results[0]["comparisons"] == results[1]["comparisons"]


def test_cells_side_by_side_come_out_as_one_after_the_other(run, whole, data, tmp_path):
    output = run(*study("squeeze", data, tmp_path, "--jobs", 2, "--cell", 1, "--cell", 2))
    assert "[1] " in output and "[2] " in output and output.count(": done") == 4  # each run's own line, and ours of it
    ours, theirs = weights(tmp_path), weights(whole[0])
    assert len(ours) == 2
    for name in ours:
        assert all(torch.equal(ours[name][key], theirs[name][key]) for key in theirs[name]), name
    assert "--jobs must be" in run(*study("squeeze", data, tmp_path, "--jobs", 2, "--num-gpus", 2), code=2)


def test_two_processes_make_a_study(run, data, tmp_path):
    output = run(*study("squeeze", data, tmp_path, "--num-gpus", 2))
    assert "2 processes" in output and len(weights(tmp_path)) == 4
    assert output.count("cell 1 of 4 (max pooling, seed 1): in ") == 1 and output.count("result: ") == 1


def test_a_killed_row_of_cut_weights_goes_on_from_the_same_cut(start, run, data, tmp_path):
    def words(folder):
        return study("ratios", data, tmp_path / folder, "--cell", 1, "--cell", 4)  # the source, and a row by worth

    run(*words("whole"))
    process = start(*words("killed"), start_new_session=True)
    deadline, runs = time.time() + 200, tmp_path / "killed" / "runs"
    while not (
        begun := [path.parent for path in runs.glob("*/cut.json") if list(path.parent.glob("checkpoint_*2.pth"))]
    ):
        assert process.poll() is None and time.time() < deadline, "no cut row was begun"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (cell,) = begun
    assert not (cell / "model_final.pth").exists(), "the run was over before it was killed"
    kept = (cell / "cut.pth").stat().st_mtime_ns
    assert "going on after step" in run(*words("killed"), "--resume")
    assert (cell / "cut.pth").stat().st_mtime_ns == kept
    ours, theirs = (weights(tmp_path / folder) for folder in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and len(ours) == 2
    assert len(ours[cell.name]["stage3.unit3.se.fc1.weight"]) < 16
    for name in ours:
        assert all(torch.equal(ours[name][key], theirs[name][key]) for key in theirs[name]), name
