"""Runs held against each other, in one HTML: python tools/compare.py RUN RUN …"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Compares runs of one task: their figures, what each difference from the first run is worth on "
        "other images of the same kind, their curves over each other, the settings that differ, and what they say of "
        "the same images, those first where they differ most. What cannot be compared is named."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of its evaluation")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), metavar="FILE", help="(%(default)s)")
    parser.add_argument("--images", type=int, default=12, metavar="N", help="images to show at most (%(default)s)")
    options = parser.parse_args(arguments)
    if options.images < 0:
        parser.error("--images must be 0 or more")
    return options


def detector():
    """What the engine is told of the task, and how a run's answers are opened."""
    from detection.compare import DetectorAnswers
    from detection.task_info import DETECTION

    return DETECTION, DetectorAnswers


def classifier(task):
    """As ``detector``."""
    from classification.compare import ClassifierAnswers

    return task.info, partial(ClassifierAnswers, task=task)


def main(arguments=None):
    options = parse(arguments)

    from engine.compare.comparison import compare  # only now: PyTorch takes seconds to import
    from engine.compare.page import describe, write_page
    from engine.compare.runs import runs_of_one_task
    from studies.lab.by_task import by_task

    found = runs_of_one_task(options.runs)
    task = by_task(found.task, found.folders[0], detector, classifier)
    comparison = compare(found, *task, options.images)
    print(f"{describe(comparison)}\n\ndone: {write_page(comparison, options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
