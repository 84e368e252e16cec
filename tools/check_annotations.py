#!/usr/bin/env python
"""Checks a detection set, COCO, Pascal VOC or YOLO: python tools/check_annotations.py DATA [--fix OUT.json]"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Lists all that is wrong with a detection set, as training and evaluation would find it: counts, "
        "and where. DATA is a COCO json; a folder of Pascal VOC, or a list in its ImageSets/Main; or a data.yaml of "
        "YOLO, or its folder.",
        epilog="Exit code: 0 nothing is wrong; 1 there are problems, warnings among them; 2 wrong usage.",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="the set")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="its images (COCO: train/ or val/, or beside it)")
    parser.add_argument("--split", default="", metavar="NAME", help="train, val or test of a folder or data.yaml (all)")
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="OUT.json",
        help="write a COCO json in which boxes are clipped and what else is wrong is mended or dropped, and say each",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="all problems as JSON")
    parser.add_argument("--masks", action="store_true", help="every object needs a mask, as for Mask R-CNN")
    parser.add_argument("--deep", action="store_true", help="decode every image, not its header alone")
    parser.add_argument("--shown", type=int, metavar="N", help="list so many problems of each kind (all)")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)

    from detection.formats.check_set import Options, check_set

    return 1 if check_set(Options(**vars(options))).problems else 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
