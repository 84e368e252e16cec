#!/usr/bin/env python
"""The main job in five minutes: draw a small data set, train a detector on an SE backbone, evaluate, show."""

import sys

from engine.errors import main_guard
from engine.run.command_line import run_demo_command


def main() -> int:
    def run(*words):
        from detection.demo import run_demo  # only now: it takes seconds to import

        return run_demo(*words)

    return run_demo_command(__doc__, "configs/demo.yaml", 600, 100, run)


if __name__ == "__main__":
    sys.exit(main_guard(main))
