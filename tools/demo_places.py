#!/usr/bin/env python
"""Scene classification in three minutes: draw scenes, train a classifier on an SE backbone, evaluate, show."""

import argparse
import sys
import time
from pathlib import Path

from engine.errors import main_guard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-images", type=int, default=200, metavar="N", help="of each class, for training (200)")
    parser.add_argument("--val-images", type=int, default=40, metavar="N", help="of each class, for evaluation (40)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="keys of configs/places365_demo.yaml to change"
    )
    args = parser.parse_intermixed_args()
    begin = time.perf_counter()

    from places365.demo import run_demo

    run = run_demo(args.train_images, args.val_images, ["MODEL.DEVICE", args.device, *args.overrides])
    print(f"\ndone in {time.perf_counter() - begin:.0f} s. Open {(Path(run) / 'summary.html').resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
