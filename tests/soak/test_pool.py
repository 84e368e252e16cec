"""What a trial does to its process is its outcome, and the next one is tried all the same."""

import ctypes
import os
import time

from soak.pool import Outcome, try_all


def trial(seed, place):
    assert not list(place.iterdir())
    (place / "left_behind").touch()
    if seed == 11:
        ctypes.string_at(0)
    if seed == 12:
        raise ValueError("a mistake")
    if seed == 13:
        while True:
            time.sleep(0.01)
    if seed == 14:
        os._exit(3)
    return Outcome("all", "fine")


def test_a_crash_a_traceback_and_a_hang_are_outcomes(tmp_path):
    found = dict(try_all(trial, 10, 7, tmp_path, 2, limit=1))
    assert sorted(found) == list(range(10, 17))
    assert [found[seed].result for seed in sorted(found)] == [
        "fine", "crash", "traceback", "hang", "crash", "fine", "fine",
    ]  # fmt: skip
    assert "SIGSEGV" in found[11].fault and "in trial" in found[11].fault
    assert "ValueError: a mistake" in found[12].fault
    assert "no end after 1 s" in found[13].fault and "in trial" in found[13].fault
    assert "exit code 3" in found[14].fault
    assert not any(found[seed].fault for seed in (10, 15, 16))


def test_trials_of_more_weight_are_fewer(tmp_path):
    found = list(try_all(lambda seed, place: Outcome("a", "b", weight=3), 0, 7, tmp_path, 1, limit=10))
    assert [seed for seed, _ in found] == [0, 1, 2]
