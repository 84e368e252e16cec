#!/usr/bin/env python
"""Checks too slow for the test suite: COCO records end to end and one batch learnt by heart, both on real photos; a
detector on drawn shapes with each family's network."""

import argparse
import json
import sys
from pathlib import Path

from engine.errors import UserError, main_guard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=("end-to-end", "overfit", "families"))
    parser.add_argument("--steps", type=int, default=300, help="of the overfit check and of each family (300)")
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_intermixed_args()

    from detection.acceptance import end_to_end, families, overfit
    from engine.run.folder import command
    from se_backbones.files import write_atomically

    checks = {"overfit": overfit, "families": families}
    if args.check == "end-to-end":
        result = end_to_end(args.overrides)
    else:
        result = checks[args.check](args.overrides, args.steps)
    text = json.dumps({"check": args.check, **result, "command": command()}, indent=1)
    print(text)
    if args.json:
        write_atomically(Path(args.json), text + "\n")
    if not result["passed"]:
        raise UserError(f"the check {args.check} failed")
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
