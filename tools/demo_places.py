#!/usr/bin/env python
"""Scene classification in three minutes: draw scenes, train a classifier on an SE backbone, evaluate, show."""

import sys

from engine.errors import main_guard
from engine.run.command_line import run_demo_command


def main() -> int:
    def run(*words):
        from places365.demo import run_demo  # only now: it takes seconds to import

        return run_demo(*words)

    return run_demo_command(__doc__, "configs/places365_demo.yaml", 200, 40, run, each="of each class ")


if __name__ == "__main__":
    sys.exit(main_guard(main))
