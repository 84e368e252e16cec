"""Checkpoints that are written while the steps go on: whole, of their own step, and never the only copy at risk."""

import os
import signal
import threading
from collections import Counter

import pytest
import torch

from engine.train import checkpoint as module
from engine.train.checkpoint import checkpoint_path, load_checkpoint, newest_checkpoint
from engine.train.saving import CheckpointSaver, snapshot
from tests.engine.train.test_trainer import assert_equal, config, make, weights

WRITE = torch.save


def state(value):
    return {"iteration": int(value), "model": {"weight": torch.full((64,), float(value))}}


def test_a_copy_is_independent_and_keeps_what_the_state_is():
    shared = torch.arange(6.0).reshape(2, 3).to(torch.float16)
    model = torch.nn.BatchNorm1d(3).state_dict()
    image = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    given = {"a": shared, "again": [shared.detach(), 3, None], "model": model, "image": image, "view": shared[0]}
    given["milestones"] = Counter([3, 3, 8])  # as PyTorch's MultiStepLR has them in its state
    copied = snapshot(given)
    assert copied["milestones"] == given["milestones"] and copied["milestones"] is not given["milestones"]
    before = {name: value.clone() for name, value in model.items()}
    assert copied["image"].stride() == image.stride() and copied["model"]._metadata == model._metadata
    assert copied["a"] is copied["again"][0] and copied["again"][1:] == [3, None]
    for tensor in (shared, image, *model.values()):
        tensor.zero_()
    assert_equal(dict(copied["model"]), before)
    assert copied["a"].sum() == 15 and copied["view"].sum() == 3 and copied["image"].sum() > 0


def test_a_file_has_the_state_of_its_step_whatever_follows(tmp_path, monkeypatch):
    """While it is being written the next steps run, and until it is whole the one before stays."""
    go = threading.Event()
    monkeypatch.setattr(module.torch, "save", lambda *of: (go.wait(30), WRITE(*of)))
    content = state(1)
    with CheckpointSaver() as saver:
        go.set()
        saver.save(checkpoint_path(tmp_path, 1), content, keep=1)
        saver.wait()
        go.clear()
        content["iteration"] = 2
        saver.save(checkpoint_path(tmp_path, 2), content, keep=1)
        content["model"]["weight"].fill_(7)
        saver.check()  # waits for nothing
        assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 1)
        go.set()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_0000002.pth"]
    assert_equal(load_checkpoint(checkpoint_path(tmp_path, 2))["model"], state(1)["model"])


def test_one_is_written_at_a_time(tmp_path, monkeypatch):
    inside, most = [], []

    def write(*of):
        inside.append(of)
        most.append(len(inside))
        WRITE(*of)
        inside.pop()

    monkeypatch.setattr(module.torch, "save", write)
    with CheckpointSaver() as saver:
        for step in range(1, 6):
            saver.save(checkpoint_path(tmp_path, step), state(step), keep=5)
    assert most == [1] * 5 and newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 5)


def test_what_fails_is_raised_at_the_next_step(tmp_path, monkeypatch):
    def full(_, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    trainer, task = make(tmp_path, config("SOLVER.CHECKPOINT_PERIOD", "3", "SOLVER.MAX_ITER", "6"))
    steps, step = [], trainer._step

    def step_slowly(*of):
        step(*of)
        steps.append(trainer.iteration)
        if trainer.saver._thread is not None:
            trainer.saver._thread.join()

    trainer._step = step_slowly
    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(OSError, match="No space left.*checkpoint_0000003.pth"):
        trainer.train(task, [])
    assert steps == [0, 1, 2, 3] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ends", [None, ValueError("the run's own error")])
def test_what_fails_at_the_end_is_raised_there_and_hides_no_other_error(tmp_path, monkeypatch, ends, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(OSError if ends is None else ValueError), CheckpointSaver() as saver:
        saver.save(checkpoint_path(tmp_path, 1), state(1), keep=1)
        if ends is not None:
            raise ends
    assert ("No space left" in caplog.text) is (ends is not None)


def test_the_final_weights_wait_for_the_checkpoint_before_them(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(module.torch, "save", lambda content, path: (written.append(path.name), WRITE(content, path)))
    trainer, task = make(tmp_path, config("SOLVER.CHECKPOINT_PERIOD", "5"))
    trainer.train(task, [])
    names = [name.split(".")[1] for name in written if "model_best" not in name]
    assert names == ["checkpoint_0000005", "checkpoint_0000010", "checkpoint_0000012", "model_final"]
    assert trainer.course.limit.expected("saving") > 0
    assert_equal(load_checkpoint(tmp_path / "model_final.pth")["model"], weights(trainer))


def test_a_kill_in_the_middle_of_a_file_loses_nothing(tmp_path, monkeypatch):
    def killed(_, path):
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with CheckpointSaver() as saver:
        saver.save(checkpoint_path(tmp_path, 1), state(1), keep=1)
    if (child := os.fork()) == 0:
        monkeypatch.setattr(module.torch, "save", killed)
        with CheckpointSaver() as saver:
            saver.save(checkpoint_path(tmp_path, 2), state(2), keep=1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 1)
    assert_equal(load_checkpoint(checkpoint_path(tmp_path, 1))["model"], state(1)["model"])
