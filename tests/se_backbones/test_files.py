"""Outputs are whole or not there."""

import os

import pytest

from se_backbones.files import atomic_path, write_atomically


def test_writing_makes_folders_and_leaves_nothing_else(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.txt", "grün")
    assert path.read_text(encoding="utf-8") == "grün"
    assert write_atomically(path, b"\x00").read_bytes() == b"\x00"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interruption_keeps_the_old_file(tmp_path, error):
    path = write_atomically(tmp_path / "a.txt", "old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_temporary_file_keeps_the_suffix_and_hides(tmp_path):
    with atomic_path(tmp_path / ("x" * 240 + ".png")) as temporary:
        assert temporary.suffix == ".png" and temporary.name.startswith(".")
        temporary.write_bytes(b"1")
