"""What the tests of several rooms need."""

import importlib.util
import logging
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture
def load_tool():
    """(name) → tools/name.py as a module; the signal handler that its main sets is taken back."""
    before = signal.getsignal(signal.SIGTERM)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"{name}_tool", TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def runs_in_this_process():
    """Puts back what runs that are started in the tests' own process change in it."""

    def loggers():
        return [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]

    before = {logger: (list(logger.handlers), logger.propagate, logger.level) for logger in loggers()}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MALLOC_", "")  # with it a run leaves the allocator alone, which other tests here share
        yield
    for logger in loggers():  # a run's handlers and its propagate = False would blind later tests' caplog
        logger.handlers, logger.propagate, level = before.get(logger, ([], True, logging.NOTSET))
        logger.setLevel(level)


@pytest.fixture(scope="session")
def write_scenes():
    """(folder, {split: images of each class}, classes) → the folder, with class folders of noise around a colour for
    each class."""

    def write(folder, counts, classes):
        random = np.random.default_rng(0)
        for split, count in counts.items():
            for number, name in enumerate(classes):
                (folder / split / name).mkdir(parents=True)
                for index in range(count):
                    image = random.integers(0, 120, (40, 52, 3)) + np.eye(3)[number % 3] * 100
                    cv2.imwrite(str(folder / split / name / f"{index:03}.jpg"), image.astype(np.uint8))
        return folder

    return write
