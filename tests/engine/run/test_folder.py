"""A run's folder and what is compared with what it began with."""

import os
import unicodedata

import pytest

from engine.errors import UserError
from engine.run.folder import check_can_hold, class_difference


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
