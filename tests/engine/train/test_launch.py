"""What several processes do together."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.train.launch import leave_processes, of_any_process, once, relaunch
from engine.train.stopping import GRACE
from tests.processes import in_two_processes

from detectron2.utils import comm


def test_one_process_gets_what_the_function_gives_and_raises():
    def wrong():
        raise UserError("a wrong path")

    assert once(lambda: [1, "two"]) == [1, "two"]
    with pytest.raises(UserError, match="a wrong path"):
        once(wrong)


@pytest.mark.parametrize("given, expected", [(None, GRACE), ("7", 7)])
def test_processes_have_the_time_to_end_with_a_checkpoint(monkeypatch, given, expected):
    """torchrun's own 30 seconds would cut a long step, or the writing of a large checkpoint."""
    if "shutdown_timeout" not in LaunchConfig.__dataclass_fields__:
        pytest.skip("this release of PyTorch has no such setting")
    for name in ("LOCAL_RANK", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # put back behind the test, whatever is set in it
        monkeypatch.delenv(name)
    if given is not None:
        monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", given)
    settings = []
    monkeypatch.setattr("engine.train.launch.elastic_launch", lambda *found: settings.extend(found) or (lambda *_: {}))
    with monkeypatch.context() as quiet:
        quiet.setattr("logging.Logger.setLevel", lambda *_: None)  # the launcher's logs stay as they are
        assert relaunch(2, torch.device("cpu")) == 0
    assert settings[0].shutdown_timeout == expected > 0 and GRACE > 30


def _process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)

    def called():
        (folder / f"called_{rank}").touch()
        return {"by": rank}

    def wrong():
        (folder / f"wrong_{rank}").touch()
        raise UserError(f"a wrong path, found by {rank}")

    results = [once(called)]
    try:
        once(wrong)
    except UserError as error:
        results.append(str(error))
    results.append(once(lambda: None))  # the processes are still in step
    (folder / f"results_{rank}").write_text(repr(results))
    leave_processes()


def test_a_mistake_in_the_first_process_is_raised_in_all(tmp_path):
    in_two_processes(_process, tmp_path)
    expected = repr([{"by": 0}, "a wrong path, found by 0", None])
    assert [(tmp_path / f"results_{rank}").read_text() for rank in range(2)] == [expected] * 2
    assert sorted(path.name for path in tmp_path.glob("*_[01]") if "results" not in path.name) == [
        "called_0",
        "wrong_0",
    ]


def _signalled(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    assert of_any_process("SIGTERM" if rank == 1 else None) == "SIGTERM"
    assert of_any_process(None) is None
    leave_processes()


def test_what_one_process_knows_all_are_told(tmp_path):
    assert of_any_process("alone") == "alone"
    in_two_processes(_signalled, tmp_path)  # raises what a process does


def _threads():
    return [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]


def _gather_and_leave(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    assert comm.all_gather(rank) == [0, 1] and any("gloo" in name for name in _threads())
    leave_processes()
    assert not any("gloo" in name for name in _threads())


def test_no_thread_of_the_processes_outlives_them(tmp_path):
    in_two_processes(_gather_and_leave, tmp_path)  # raises what a process does
