"""Checkpoints: whole or not there, and nothing in them is run."""

import os
import pickle
import zipfile

import pytest
import torch

from engine.errors import UserError
from engine.train import checkpoint as module
from engine.train.checkpoint import (
    NotOurCheckpoint,
    checkpoint_path,
    load_checkpoint,
    newest_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)


def save(run, iteration, **content):
    content = {"iteration": iteration, "model": {"weight": torch.full((64,), float(iteration))}, **content}
    return save_checkpoint(checkpoint_path(run, iteration), content)


def test_what_is_saved_is_loaded(tmp_path):
    content = load_checkpoint(save(tmp_path, 7, classes=["a"], ema=None))
    assert content["iteration"] == 7 and content["classes"] == ["a"] and content["ema"] is None
    assert torch.equal(content["model"]["weight"], torch.full((64,), 7.0))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = save(tmp_path, 1)

    def torn(_, target):
        target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(module.torch, "save", torn)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, {"iteration": 2})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert load_checkpoint(path)["iteration"] == 1


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty"])
def test_the_newest_whole_checkpoint_is_found_behind_a_damaged_one(tmp_path, harm):
    save(tmp_path, 5)
    newest = save(tmp_path, 10)
    data = bytearray(newest.read_bytes())
    if harm == "flip":
        position = data.find(torch.full((64,), 10.0).numpy().tobytes())
        assert position > 0
        data[position + 100] ^= 1
    newest.write_bytes({"truncate": data[: len(data) // 2], "flip": data, "empty": b""}[harm])
    with pytest.raises(UserError, match="checkpoint_0000010.pth.*(damaged|empty)"):
        load_checkpoint(newest)
    assert load_checkpoint(newest_checkpoint(tmp_path))["iteration"] == 5


def test_only_the_newest_are_kept(tmp_path):
    for iteration in (1, 2, 3, 10_000_000):
        save(tmp_path, iteration)
    (tmp_path / "model_final.pth").touch()
    remove_old_checkpoints(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint_0000003.pth",
        "checkpoint_10000000.pth",
        "model_final.pth",
    ]


class _Payload:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_a_checkpoint_runs_nothing(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "checkpoint_0000001.pth"
    torch.save({"format": module.FORMAT, "model": (_Payload(trace),)}, path)
    with pytest.raises(UserError, match="refused"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(_Payload(trace)))
    with pytest.raises(UserError):
        load_checkpoint(path)
    assert not trace.exists()


def test_a_packed_checkpoint_takes_no_memory(tmp_path):
    """A hundred kilobytes that would unfold into a hundred megabytes."""
    path = tmp_path / "checkpoint_0000001.pth"
    torch.save({"format": module.FORMAT, "model": {"weight": torch.zeros(25_000_000)}}, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    assert (tmp_path / "packed.pth").stat().st_size < 200_000
    with pytest.raises(UserError, match="packed.pth.*packed"):
        load_checkpoint(tmp_path / "packed.pth")


def test_another_ones_file_is_said_to_be_so(tmp_path):
    # In torch's older form too, which is no damage.
    torch.save({"model": {}}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(NotOurCheckpoint, match="no checkpoint of this package"):
        load_checkpoint(tmp_path / "legacy.pth")
    torch.save({"model": {}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no checkpoint of this package"):
        load_checkpoint(tmp_path / "other.pth")
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.pth")
