"""A run's folder and what is compared with what it began with."""

import os
import sys
import unicodedata

import pytest

from engine.errors import UserError
from engine.run.folder import check_can_hold, class_difference, command


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
