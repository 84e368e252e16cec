"""A run's folder and what is compared with what it began with."""

import os
import sys
import unicodedata

import pytest
import torch
from fvcore.common.config import CfgNode

from engine.errors import UserError
from engine.run import folder
from engine.run.folder import announce, check_can_hold, class_difference, command


def test_equal_classes_do_not_differ_in_whatever_form_they_were_written():
    decomposed = unicodedata.normalize("NFD", "café")
    assert class_difference(["café", "bed\\nroom"], [decomposed, "bed\nroom"]) == ""


def test_what_differs_is_named():
    assert class_difference(["a", "b"], ["b", "a"]) == "the same names in another order"
    difference = class_difference(["Cat", "dog"], ["cat", "dog"])
    assert difference.splitlines() == [
        "only in the first: Cat", "  only in the second: cat", "  nearly the same: 'Cat' and 'cat'",
    ]  # fmt: skip


def test_a_folder_whose_name_is_no_utf8_is_refused(tmp_path):
    with pytest.raises(UserError, match="not UTF-8; name another folder"):
        check_can_hold(tmp_path / os.fsdecode(b"run\xe9"))
    check_can_hold(tmp_path / "rün")


def test_a_command_can_be_typed_again_and_a_notebook_has_none(monkeypatch, tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "tools" / "train.py"), "--config", "a b.yaml"])
    assert command() == "python tools/train.py --config 'a b.yaml'"
    monkeypatch.setattr(sys, "argv", ["/lib/ipykernel_launcher.py", "-f", "/tmp/kernel-1.json"])
    assert command() == "a cell of a notebook"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_on_cores_that_others_keep_busy_says_what_is_faster(device, monkeypatch, caplog):
    cfg = CfgNode({"MODEL": {"BACKBONE": {"ARCHITECTURE": "se_resnet18"}}})
    monkeypatch.setattr(folder, "describe_device", str)
    for advice in ("", "fewer threads are faster"):
        monkeypatch.setattr(folder, "advice_where_cores_are_shared", lambda threads, advice=advice: advice)
        caplog.clear()
        announce(cfg, torch.device(device))
        warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert warnings == [advice] * (device == "cpu" and bool(advice))
