"""Studies by the command line's own main, in the tests' process."""

import sys

import pytest

from studies.lab import command  # noqa: F401  (what it imports changes the environment, once)


@pytest.fixture
def call_study(load_tool, monkeypatch, runs_in_this_process, small_networks, rough_figures):
    """(name, folder, *words): runs ``tools/study.py`` on the CPU, with its runs, results and docs in the folder."""
    main = load_tool("study").main

    def call(name, folder, *words):
        words = [
            "tools/study.py", name, "--device", "cpu", "--output", folder / "runs",
            "--json", folder / "results" / f"{name}.json", "--docs", folder / "docs", *words,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        assert main() == 0

    return call
