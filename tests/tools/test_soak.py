"""Runs that are killed, that find the disk full, and that are asked to end, one of each."""

import json


def test_what_is_disturbed_ends_as_if_nothing_had_happened(run, tmp_path):
    """Seed 0: one kill of a classifier, a disk with no room at all, SIGTERM to the first of two processes."""
    path = tmp_path / "soak.json"
    words = ["kills", "disk", "terminate", "--count", 1, "--seed", 0, "--processes", 1, "--json", path]
    output = run("tools/soak.py", *words)
    result = json.loads(path.read_text())
    assert result["passed"] and list(result["parts"]) == ["kills", "disk", "terminate"], output
    assert result["parts"]["kills"]["outcomes"] == {"classification": {"equal": 1}}
    for part in result["parts"].values():
        (found,) = (result for outcomes in part["outcomes"].values() for result in outcomes)
        assert found.endswith("equal") and part["count"] == 1
    assert result["command"].startswith("python tools/soak.py kills disk terminate")


def test_an_unknown_part_is_named(run):
    assert "unknown part nothing" in run("tools/soak.py", "nothing", code=2)
