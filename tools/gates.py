"""What the gates of a trained classifier or detector do on a data set: python tools/gates.py --help"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard
from engine.gates.options import Options
from engine.run.command_line import keep_work_when_killed


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Runs a model over its validation images and tells, for each gate: its mean, its spread between "
        "classes and within, how much of it is saturated, channels that are always on or off, and the correlation with "
        "the scale of the normalisation before it. Prints a table; writes gates.json, pictures and summary.html.",
        epilog="KEY VALUE: config keys to change, such as DATA.VAL train, or DATA.VAL.IMAGES FOLDER of a detector.",
    )
    parser.add_argument("--weights", required=True, type=Path, metavar="FILE", help="such as RUN/model_final.pth")
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="a classifier's DATA.ROOT, a detector's DATA.VAL.JSON (the run's)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the results (gates, beside the weights)")
    parser.add_argument("--images", type=int, metavar="N", help="look at so many, evenly over the set (all)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    return Options(**vars(parser.parse_intermixed_args(arguments)))


def look(options):
    from studies.lab.by_task import by_task_of  # only now: PyTorch takes seconds to import

    def detector():
        from detection.gates import look_at_detector

        return look_at_detector(options)

    def classifier(task):
        from classification.gates import look_at_classifier

        return look_at_classifier(options, task)

    return by_task_of(options.weights, detector, classifier)


def main(arguments=None):
    options = parse(arguments)
    keep_work_when_killed()
    content = look(options)

    from engine.gates.page import describe

    print(f"{describe(content)}\ndone: {options.folder / 'summary.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
