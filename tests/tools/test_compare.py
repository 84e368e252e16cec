"""The comparison through its command line."""

import sys

import pytest

from engine.errors import UserError
from tests.engine.compare.made_runs import write_class_folders, write_classifier


@pytest.fixture
def main(load_tool, runs_in_this_process, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare.py"])
    return load_tool("compare").main


def test_two_runs_give_a_table_and_a_page(main, tmp_path, capsys):
    data = write_class_folders(tmp_path / "data")
    runs = [str(write_classifier(tmp_path / name, wrong, data)) for name, wrong in (("a", [1]), ("b", []))]
    page = tmp_path / "new" / "page.html"
    assert main([*runs, "--output", str(page), "--images", "3"]) == 0
    said = capsys.readouterr().out
    assert "top-1 accuracy     87.50  100.00\n" in said and f"done: {page}" in said
    assert "images of which the runs do not say the same: 1 of 8" in said and page.is_file()


def test_one_run_is_no_comparison(main, tmp_path):
    run = write_classifier(tmp_path / "a", [], tmp_path)
    with pytest.raises(UserError, match="needs two runs"):
        main([str(run)])
    with pytest.raises(UserError, match="nowhere"):
        main([str(run), "nowhere"])
