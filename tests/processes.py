"""Processes that begin with everything imported, which takes longer than what most tests do in them."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch.multiprocessing

ROOT = Path(__file__).resolve().parents[1]
# One thread: sums in one order, and no quarrel over cores with a second process.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PRELOADED = ["pytest", "detection.train", "detection.predict.predictor", "places365.train", "studies.lab.command"]


def start_prepared(start):
    """Calls ``start(context)``, where processes of the context are forked from one that stands ready. That one has the
    environment above, whatever the test's is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:  # for the first one, with which the others come to be
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        return start(context)


def in_two_processes(function, *arguments):
    """As ``torch.multiprocessing.spawn``: function(rank, *arguments) in two; raises what one of them does."""
    start = torch.multiprocessing.start_processes
    start_prepared(lambda context: start(function, arguments, nprocs=2, start_method="forkserver"))
