"""The installed commands: ``NAME`` in here runs ``NAME.py`` beside it, as ``python tools/NAME.py`` does in a clone."""

import importlib
import sys

from engine.errors import main_guard


def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)

    def command() -> int:
        path = list(sys.path)
        tool = importlib.import_module(f"{__package__}.{name}")
        sys.path[:] = path  # some put their clone in front
        return main_guard(tool.main)

    return command
