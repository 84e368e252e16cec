"""Running command lines as a person does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# One thread: sums in one order, and no quarrel over cores with a second process.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def start():
    """(*words) → the process of ``python *words``, its output in one stream."""

    def start(*words, **kwargs):
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **kwargs,
        )

    return start


@pytest.fixture(scope="session")
def run(start):
    """(*words, code=0) → the output of ``python *words``, which must end with that exit code."""

    def run(*words, code=0):
        process = start(*words)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output
        return output

    return run
