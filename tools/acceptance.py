#!/usr/bin/env python
"""Checks too slow for the test suite: COCO records end to end and one batch learnt by heart, both on real photos; with
each family's network a detector of drawn shapes and a classifier of drawn scenes."""

import argparse
import sys

from engine.errors import UserError, main_guard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=("end-to-end", "overfit", "detectors", "classifiers"))
    parser.add_argument("--steps", type=int, default=300, help="of the overfit check and of each detector (300)")
    parser.add_argument("--epochs", type=int, default=8, help="of each classifier (8)")
    parser.add_argument("--architecture", action="append", metavar="NAME", help="in place of one of each family")
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_intermixed_args()

    from classification.acceptance import FAMILIES, classifiers
    from detection.acceptance import PYRAMIDS, detectors, end_to_end, overfit
    from engine.json_files import show_json
    from engine.run.folder import command

    checks = {
        "end-to-end": lambda: end_to_end(args.overrides),
        "overfit": lambda: overfit(args.overrides, args.steps),
        "detectors": lambda: detectors(args.overrides, args.steps, args.architecture or PYRAMIDS),
        "classifiers": lambda: classifiers(args.overrides, args.epochs, args.architecture or FAMILIES),
    }
    result = checks[args.check]()
    show_json({"check": args.check, **result, "command": command()}, args.json)
    if not result["passed"]:
        raise UserError(f"the check {args.check} failed")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
