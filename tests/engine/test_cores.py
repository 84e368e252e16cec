"""Cores that others keep busy are noticed, and named where threads have to wait for them."""

import os

import pytest

from engine import cores

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def stat(working):
    """A /proc/stat after cores have worked for some ticks of a hundred each, by number."""
    each = [f"cpu{n} {working.get(n, 0)} 0 0 {100 - working.get(n, 0)} 0 0 0 0 0 0" for n in (*CORES, 997)]
    return "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *each, "intr 1 2 3", "ctxt 5", ""])


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """While the cores are watched, those given work."""

    def begin(working):
        path = tmp_path / "stat"
        path.write_text(stat({}).replace(" 100 ", " 0 "))
        monkeypatch.setattr(cores, "STAT", path)
        monkeypatch.setattr(cores.time, "sleep", lambda seconds: path.write_text(stat(working)))

    return begin


@pytest.mark.parametrize(
    ("working", "busy"), [({}, 0), ({CORES[0]: 100}, 1), ({CORES[0]: 40}, 0.4), ({997: 100}, 0)], ids=str
)
def test_busy_are_the_usable_cores_share_of_the_time(working, busy, machine):
    machine(working)
    assert cores.busy_cores() == pytest.approx(busy)


def test_a_system_that_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "STAT", tmp_path / "none")
    assert cores.busy_cores() == 0 and cores.advice_where_cores_are_shared(2) == ""


@pytest.mark.parametrize(
    ("busy", "threads", "fewer"),
    [(0, 4, None), (0.5, 4, None), (1, 4, 3), (2.9, 4, 1), (4, 4, 1), (1, 3, None), (2, 1, None), (1, 8, 3)],
)
def test_advice_is_for_threads_that_must_wait(busy, threads, fewer, monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    monkeypatch.setattr(cores, "busy_cores", lambda: busy)
    advice = cores.advice_where_cores_are_shared(threads)
    assert bool(advice) == (fewer is not None)
    if fewer:
        assert f"OMP_NUM_THREADS={fewer} " in advice and f"{busy:.1f} of 4 cores" in advice
