"""Making cells: which are made, which are refused, and how long it all takes."""

from argparse import Namespace
from pathlib import Path

import pytest

from engine.errors import UserError
from studies.index import STUDIES
from studies.lab import run
from studies.lab.cells import plan
from studies.lab.command import words


@pytest.fixture
def made(tmp_path):
    return plan(STUDIES["crops"], "cpu", tmp_path / "runs", seeds=2)


def test_a_run_is_made_by_one_command_at_a_time(made):
    cell = made.cells[0]
    with run._lock(cell), pytest.raises(UserError, match=f"another process is making {cell.folder}"), run._lock(cell):
        pass
    with run._lock(cell):
        pass  # given back


def test_weights_are_there_before_they_are_evaluated(made):
    with pytest.raises(UserError, match="cell 3 wants the weights of 1: run that one first"):
        run._chosen(made, [3])
    assert [cell.number for cell in run._chosen(made, [3, 1])] == [1, 3]
    with pytest.raises(UserError, match="--cell 9: crops has the cells 1 to 8"):
        run._chosen(made, [1, 9])


def test_what_was_cut_off_is_not_gone_on_with_unasked(made):
    folder = made.runs[0].folder
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("{}\n")
    assert made.runs[0].begun and not made.runs[0].done
    with pytest.raises(UserError, match="Go on from it with --resume"):
        run.run_cells(made)
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]


def test_the_time_left_counts_the_trainings_that_are_missing(made):
    lines = []
    progress = run._Progress(made.runs, lines.append)  # two trainings, four evaluations, two further trainings
    progress.seconds = [100.0]
    progress.position = 1
    assert progress._left(30.0) == pytest.approx(30 + 3 * 100)
    assert progress._note(30.0) == "cell 1/8, all in 0:05:30"
    progress.position = 8
    assert progress._left(30.0) == pytest.approx(30)


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("cifar", {"data": "x.zip"}, ["SEED", "2", "DATA.ROOT", "x.zip"]),
        ("detection", {"device": "cpu"}, ["SEED", "2", "MODEL.DEVICE", "cpu"]),
    ],
)
def test_flags_stand_for_keys(name, given, found):
    args = Namespace(**{"scale": "cpu", "data": None, "device": None, "overrides": ["SEED", "2"]} | given)
    assert words(STUDIES[name], args) == found


def test_detection_has_no_one_place_of_its_data():
    args = Namespace(scale="cpu", data="coco", device=None, overrides=[])
    with pytest.raises(UserError, match="DATA.TRAIN.JSON FILE"):
        words(STUDIES["detection"], args)


def test_evaluations_of_a_plateau_are_part_of_a_run():
    def folder(*more):
        made = plan(STUDIES["bias"], "paper", Path("runs"), words=["SOLVER.EPOCHS", "9", *more])
        return made.cells[0].folder

    assert folder() != folder("TEST.EVAL_EPOCHS", "2")
    fixed = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"]
    assert folder(*fixed) == folder(*fixed, "TEST.EVAL_EPOCHS", "2")
