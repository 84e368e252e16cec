"""A few trials of files, and what is kept of a fault."""

import pytest

from soak.parts import PARTS, Part, soak
from soak.pool import Outcome


@pytest.mark.parametrize("name, seed, count", [("checkpoints", 0, 35), ("inputs", 760, 55)])
def test_files_are_read_or_refused(name, seed, count):
    result = soak([name], count, seed, processes=1)
    part = result["parts"][name]
    assert part["faults"] == [] and result["passed"]
    assert part["count"] == count == sum(sum(outcomes.values()) for outcomes in part["outcomes"].values())
    assert len(part["outcomes"]) > 15 and set(result) >= {"command", "hardware", "versions", "seconds", "seed"}


def test_a_fault_is_listed_with_the_command_that_shows_it_again(monkeypatch, capsys):
    def trial(seed, _place):
        return Outcome("some", "differs", "a bit") if seed == 8 else Outcome("some", "equal")

    monkeypatch.setitem(PARTS, "inputs", Part("what is tried", 3, 10, lambda folder: trial))
    result = soak(["inputs"], None, 7, processes=2)
    assert not result["passed"] and result["parts"]["inputs"]["outcomes"] == {"some": {"differs": 1, "equal": 2}}
    (fault,) = result["parts"]["inputs"]["faults"]
    again = "python tools/soak.py inputs --count 1 --seed 8"
    assert fault == {"seed": 8, "kind": "some", "fault": "a bit", "again": again}
    text = capsys.readouterr().err
    assert again in text and "what is tried" in text and "3 done in" in text
