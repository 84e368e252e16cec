"""A run's folder before the run: as it was until nothing can be refused any more."""

import gc
import logging

import pytest
from fvcore.common.config import CfgNode

from engine.errors import UserError
from engine.logs.run_log import setup_logging
from engine.run.folder import open_run
from engine.run.start import Start
from engine.task import TaskInfo

TASK = TaskInfo(
    "toy", "Toys", ("toys",), {"toys": "Toys"}, ("found",), "found.json", "t.py", "p.py", listings={"wrong*.json": "!"}
)
NO_RUN = ("log.txt", "wrong_train.json", "weights_report.json", "config.yaml")
RUN = ("checkpoint_0000002.pth", "model_final.pth", "metrics.jsonl", "result.json", "found.json", "config.yaml")

pytestmark = pytest.mark.usefixtures("runs_in_this_process")


@pytest.fixture
def cfg():
    return CfgNode({"SEED": 1})


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where a start keeps what it writes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def fill(folder, names, text="old"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(text)
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_before_the_run_is_in_its_folder_once_it_begins(tmp_path, temporary, cfg):
    setup_logging(TASK.packages)
    start = Start(tmp_path / "a" / "run", TASK)
    logging.getLogger("toys").info("said before")
    (start.staging / "weights_report.json").write_text("{}")
    assert not (tmp_path / "a").exists()
    start.begin(cfg)
    logging.getLogger("toys").info("said after")
    found = content(start.folder)
    assert set(found) == {"weights_report.json", "config.yaml", "log.txt"} and not list(temporary.iterdir())
    assert [line.split(": ", 1)[1] for line in found["log.txt"].decode().splitlines()] == ["said before", "said after"]


@pytest.mark.parametrize("names", [(), NO_RUN, RUN])
def test_a_start_that_is_refused_leaves_nothing_behind(tmp_path, temporary, names):
    folder = fill(tmp_path / "run", names)
    before = content(folder)
    setup_logging(TASK.packages)
    start = Start(folder, TASK)
    logging.getLogger("toys").warning("said before")
    fill(start.staging, ("weights_report.json", "config.yaml"), "new")
    del start
    gc.collect()
    assert content(folder) == before and not list(temporary.iterdir())


def test_what_it_was_refused_for_is_listed_without_touching_a_run(tmp_path, temporary):
    assert Start(tmp_path / "none", TASK).listings == tmp_path / "none"
    assert Start(fill(tmp_path / "tried", NO_RUN), TASK).listings == tmp_path / "tried"
    start = Start(fill(tmp_path / "run", RUN), TASK)
    (listing := start.listings / "wrong_val.json").write_text("[]")
    evaluation = Start(tmp_path / "run" / "evaluation", TASK, evaluates=True)
    assert listing.parent.parent == evaluation.listings.parent == temporary
    del start, evaluation
    gc.collect()
    assert list(temporary.rglob("*.json")) == [listing]


def test_a_log_and_a_listing_are_no_run(tmp_path, cfg):
    folder = fill(tmp_path / "run", (*NO_RUN, "mine.txt"))
    for resume in (False, True):
        assert open_run(folder, TASK, resume=resume, overwrite=False) is None
    start = Start(folder, TASK)
    start.begin(cfg)
    found = content(folder)
    assert set(found) == {"log.txt", "config.yaml", "mine.txt"}  # the listing was of another start
    assert found["log.txt"].startswith(b"old")


@pytest.mark.parametrize("name", [name for name in RUN if name != "config.yaml"])
def test_what_a_run_leaves_is_not_overwritten_by_mistake(tmp_path, name):
    folder = fill(tmp_path / "run", (name,))
    with pytest.raises(UserError, match=f"already holds a run .{name}.*--resume.*--overwrite"):
        open_run(folder, TASK, resume=False, overwrite=False)
    assert content(folder) == {name: b"old"}


def test_overwriting_removes_the_run_and_nothing_else(tmp_path, cfg):
    folder = fill(tmp_path / "run", (*RUN, *NO_RUN, ".result.7.part.json"))
    fill(folder / "plots", ("curve.png",))
    fill(folder / "data", ("mine.png",))
    assert open_run(folder, TASK, resume=False, overwrite=True) is None
    assert (folder / "model_final.pth").exists()
    Start(folder, TASK).begin(cfg)
    assert set(content(folder)) == {"config.yaml", "log.txt", "data/mine.png"}


def test_an_evaluation_keeps_the_earlier_ones_files_until_it_has_its_own(tmp_path, cfg):
    folder = fill(tmp_path / "run" / "evaluation", ("result.json", "found.json", "wrong_val.json"))
    Start(folder, TASK, evaluates=True).begin(cfg)
    assert set(content(folder)) == {"result.json", "found.json", "config.yaml", "log.txt"}


@pytest.mark.parametrize("checkpoint", [None, {"iteration": 2}])
def test_what_a_kill_left_half_written_goes(tmp_path, cfg, checkpoint):
    folder = fill(tmp_path / "run", (*RUN, ".result.0a1b2c3d.part.json"))
    fill(folder / "plots", (".curve.0a1b2c3d.part.png",))
    fill(folder / "predictions" / "val", (".1.0a1b2c3d.part.jpg", "1.jpg"))
    fill(folder / "data", (".mine.part.png",))
    Start(folder, TASK, checkpoint=checkpoint).begin(cfg)
    assert {name for name in content(folder) if ".part" in name} == {"data/.mine.part.png"}
    assert ("predictions/val/1.jpg" in content(folder)) == (checkpoint is not None)


def test_a_resumed_run_keeps_its_files(tmp_path, cfg):
    folder = fill(tmp_path / "run", (*RUN, *NO_RUN))
    Start(folder, TASK, checkpoint={"iteration": 2}).begin(cfg)
    assert set(content(folder)) == {*RUN, *NO_RUN} and content(folder)["config.yaml"] != b"old"


def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path):
    fill(tmp_path, ("file",))
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="OUTPUT_DIR .*is a file"):
            open_run(folder, TASK, resume=False, overwrite=False)


def test_a_disk_that_is_full_costs_no_run_that_was_to_be_overwritten(tmp_path, cfg, monkeypatch):
    folder = fill(tmp_path / "run", RUN)
    before = content(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.run.start.write_config", full)
    with pytest.raises(UserError, match="cannot be written to: No space left"):
        Start(folder, TASK).begin(cfg)
    assert content(folder) == before
