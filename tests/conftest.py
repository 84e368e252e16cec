"""What the tests of several rooms need."""

import gc
import importlib.util
import locale
import logging
import os
import random
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

TOOLS = Path(__file__).resolve().parents[1] / "tools"
LONG = ("tests/tools/", "tests/se_backbones/test_contract.py", "tests/studies/", "tests/detection/export/")
SET_BY_LIBRARIES = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "OPENCV_OPENCL_RUNTIME", "GOMP_SPINCOUNT")


def _seed(config):
    """Random numbers begin anew: with 0, in another order of the tests (-p randomly) with the number of that order."""
    seed = config.getoption("randomly_seed", 0) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond where CUDA has not begun


def _process_state():
    """What a test could leave behind in its process that another one would notice."""
    environment = {f"${name}": value for name, value in os.environ.items() if name not in SET_BY_LIBRARIES}
    return {
        **environment,
        "folder": os.getcwd(),
        "import path": list(sys.path),
        "locale": locale.setlocale(locale.LC_ALL),
        "torch's data type": torch.get_default_dtype(),
        "torch's device": torch.get_default_device(),
        "torch's threads": torch.get_num_threads(),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's determinism": torch.are_deterministic_algorithms_enabled(),
        "cuDNN": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "OpenCV's threads": cv2.getNumThreads(),
        "Pillow's limits": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)],
    }


@contextmanager
def _loggers_put_back():
    """Runs give the packages' loggers handlers. A later test's caplog would see nothing, and a handler that writes to
    what capsys put in the place of the console lives no longer than that."""

    def packages():
        found = logging.root.manager.loggerDict.items()
        return [logger for name, logger in found if "." not in name and isinstance(logger, logging.Logger)]

    before = {logger: (list(logger.handlers), logger.propagate, logger.level) for logger in packages()}
    yield
    for logger in packages():
        logger.handlers, logger.propagate, level = before.get(logger, ([], True, logging.NOTSET))
        if logger.level != level:
            logger.setLevel(level)


@pytest.fixture(autouse=True)
def on_its_own(request):
    """No test depends on those before it: each begins with the same random numbers and leaves its process as it was."""
    before = _process_state()
    _seed(request.config)
    with _loggers_put_back():
        yield
    after = _process_state()
    left = [(w, before.get(w), after.get(w)) for w in before | after if before.get(w) != after.get(w)]
    assert not left, f"the test changed (what, before, after): {left}"


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """What several tests share is drawn from numbers of its own, whichever test comes first, and takes none of that
    test's."""
    if fixturedef.scope == "function":
        return (yield)
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    _seed(request.config)
    try:
        return (yield)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Command lines come first, in any order of the tests, and then the other files that take long: the last of them
    alone would leave the other processes idle."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_collection_finish(session):
    """What is imported and collected stays to the end: the collector of cycles need not walk over it each time."""
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    if config.pluginmanager.hasplugin("randomly"):  # orders the tests; the seeding is ours
        config.option.randomly_reset_seed = False


@pytest.fixture
def load_tool():
    """(name) → tools/name.py as a module; the signal handler that its main sets and the place that it makes for itself
    in the import path are taken back."""
    before, path = signal.getsignal(signal.SIGTERM), list(sys.path)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"{name}_tool", TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    signal.signal(signal.SIGTERM, before)
    sys.path[:] = path


@pytest.fixture(scope="module")
def runs_in_this_process():
    """Puts back what runs that are started in the tests' own process change in it."""
    with pytest.MonkeyPatch.context() as monkeypatch, _loggers_put_back():
        monkeypatch.setenv("MALLOC_", "")  # with it a run leaves the allocator alone, which other tests here share
        yield


@pytest.fixture(scope="module")
def small_networks():
    """Every name of the table is a small network: for what stands on networks, and asks nothing of them but that they
    are some. Processes that the tests start do not know of it."""
    from tests.se_backbones.networks import change_rows, small

    with pytest.MonkeyPatch.context() as monkeypatch:
        change_rows(monkeypatch, small)
        yield


@pytest.fixture(scope="module")
def rough_figures():
    """Figures of few pixels, whose parts may overlap: for runs that are about something else. They take a third of
    the time of a run of one step."""
    from matplotlib.figure import Figure

    whole = Figure.__init__

    def rough(self, *args, **settings):
        whole(self, *args, **{**settings, "dpi": 40, "layout": None})

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Figure, "__init__", rough)
        yield


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
