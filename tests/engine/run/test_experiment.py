"""A run's beginning: what can be refused is refused before anything of an earlier run is removed."""

import sys
import types

import pytest
import torch

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.json_files import read_json
from engine.run import experiment
from engine.run.start import Start
from tests.engine.run.test_start import RUN, content, fill
from tests.engine.train.test_trainer import TOYS, config, make

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("runs_in_this_process")


@pytest.fixture
def folder(tmp_path):
    """That of an earlier run."""
    return fill(tmp_path / "run", RUN)


def wandb(init):
    return types.SimpleNamespace(init=init)


def begin(folder, *words):
    cfg = config("OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "2", *words).clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.ARCHITECTURE = "toy"
    start = experiment.begin_training(experiment.Options(overwrite=True), cfg, CPU, TOYS)
    return experiment.train(start, *make(folder, cfg), TOYS, cfg)


def test_a_service_that_refuses_costs_no_run_that_was_to_be_overwritten(folder, monkeypatch):
    def refuse(**_):
        raise PermissionError("API key missing")

    before = content(folder)
    monkeypatch.setitem(sys.modules, "wandb", wandb(refuse))
    with pytest.raises(UserError, match="LOGGERS wandb.*API key missing"):
        begin(folder, "LOGGERS", "['wandb']")
    assert content(folder) == before


def test_the_name_there_of_a_run_that_replaces_another_is_kept(folder, monkeypatch):
    fill(folder, ("loggers.json",), '{"wandb": "old"}')
    begun = []

    def init(**given):
        assert (folder / "model_final.pth").read_text() == "old"
        begun.append(given["id"])
        return types.SimpleNamespace(id="new", log=lambda *_, **__: None, finish=lambda **_: None)

    monkeypatch.setitem(sys.modules, "wandb", wandb(init))
    assert begin(folder, "LOGGERS", "['wandb']")["ended"] == "all steps were made"
    assert begun == [None] and read_json(folder / "loggers.json", "names") == {"wandb": "new"}
    assert "found.json" not in content(folder)


def test_where_the_folder_cannot_be_filled_the_run_there_has_failed(folder, monkeypatch):
    ended = []

    def init(**_):
        return types.SimpleNamespace(id="new", finish=lambda exit_code: ended.append(exit_code))

    def full(*_):
        raise UserError("no space left")

    monkeypatch.setitem(sys.modules, "wandb", wandb(init))
    monkeypatch.setattr(Start, "begin", full)
    with pytest.raises(UserError, match="no space left"):
        begin(folder, "LOGGERS", "['wandb']")
    assert ended == [1]


@pytest.mark.parametrize("key", ["SOLVER.PRECISION", "TEST.PRECISION"])
def test_a_precision_that_only_an_evaluation_would_miss_is_refused_at_once(folder, key):
    before = content(folder)
    with pytest.raises(UserError, match=f"^{key}: fp16 needs a GPU"):
        begin(folder, key, "fp16")
    assert content(folder) == before


def test_an_evaluation_alone_does_not_need_the_trainings_precision(tmp_path):
    cfg = config("OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.PRECISION", "fp16", "MODEL.WEIGHTS", "")
    with pytest.raises(UserError, match="WEIGHTS"):  # no further than that
        experiment.begin_evaluation(experiment.Options(eval_only=True), cfg, CPU, TOYS)
    with pytest.raises(UserError, match="^TEST.PRECISION: fp16 needs a GPU"):
        experiment.begin_evaluation(experiment.Options(eval_only=True), config("TEST.PRECISION", "fp16"), CPU, TOYS)
