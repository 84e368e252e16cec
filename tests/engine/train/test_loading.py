"""Batches out of worker processes: a stop request does not end them, and a person sees an error's own message."""

import os
import signal
import subprocess
import sys
import time
import traceback

import pytest
from torch.utils.data import Dataset

from engine.errors import UserError
from engine.images.reading import UnreadableImage
from engine.train.loading import load_batches


class Failing(Dataset):
    def __init__(self, error):
        self.error = error

    def __getitem__(self, index):
        if index == 0:
            return 0
        try:
            raise OSError("engine.errors.UserError: of the one that caused it")
        except OSError as cause:
            raise self.error from cause


def failing_batches(error, workers):
    return load_batches(Failing(error), [[0], [1]], list, workers)


@pytest.mark.parametrize("error", [UserError("one: line"), UserError("a\n  b\nc"), UnreadableImage("a.jpg: broken")])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_user_error_keeps_its_message(error, workers):
    batches = failing_batches(error, workers)
    assert next(batches) == [0]
    with pytest.raises(UserError) as caught:
        next(batches)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_keeps_its_traceback(workers):
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        list(failing_batches(ZeroDivisionError("a bug"), workers))
    traceback.clear_frames(caught.tb)  # they would keep the loader and its workers


class Pids(Dataset):
    """Each item is the process that made it."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __getitem__(self, index):
        time.sleep(self.seconds if index > 1 else 0)
        return os.getpid()


def test_a_stop_request_leaves_the_workers_to_their_parent():
    batches = load_batches(Pids(0.01), [[i] for i in range(40)], list, workers=2)
    workers = {next(batches)[0], next(batches)[0]}
    for name in ("TERM", "INT", "TERM"):
        for pid in workers:
            os.kill(pid, signal.Signals[f"SIG{name}"])
    assert {pid for (pid,) in batches} == workers and len(workers) == 2


def test_workers_end_with_their_parent_even_in_the_middle_of_an_item():
    script = """
from tests.engine.train.test_loading import Pids, load_batches
batches = load_batches(Pids(100), [[i] for i in range(40)], list, workers=2)
print(*next(batches), *next(batches))
"""
    workers = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=50)
    for pid in workers.stdout.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert len(workers.stdout.split()) == 2 and workers.stderr == ""
