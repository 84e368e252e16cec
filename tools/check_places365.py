#!/usr/bin/env python
"""Checks a Places365 folder, or class folders: python tools/check_places365.py ROOT [--deep]"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import EXIT_INTERRUPTED, main_guard
from engine.run.command_line import keep_work_when_killed


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Checks the splits of Places365 (official archives, torchvision's folders) or class folders below "
        "ROOT: images of each class, files that are listed and missing, empty files; with --deep, files that cannot "
        "be decoded. Exit code 0: all is well; 1: problems were found; 2: there was nothing to check; 130: "
        "interrupted, and the report is of the files read until then."
    )
    parser.add_argument(
        "root", metavar="ROOT", help="DATA.ROOT of a config: the data folder, or an archive of class folders"
    )
    parser.add_argument("--images", choices=("auto", "256", "large"), default="auto", help="which images (auto)")
    parser.add_argument("--deep", action="store_true", help="decode every file (hours for the training sets)")
    parser.add_argument("--unlisted", action="store_true", help="also name image files that are in no list")
    parser.add_argument(
        "--report",
        metavar="FILE",
        default="places365_check.json",
        help="all findings as JSON (places365_check.json in the current folder)",
    )
    parser.add_argument("--cache", metavar="FOLDER", help="folder of cached indices, DATA.CACHE of a config")
    parser.add_argument("--threads", type=int, default=16, help="that look for and decode files (16)")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    keep_work_when_killed()

    from engine.json_files import write_json
    from places365.check_root import check_root, format_report

    report = check_root(
        options.root,
        options.images,
        deep=options.deep,
        unlisted=options.unlisted,
        cache=options.cache,
        threads=options.threads,
    )
    print(format_report(report))
    print(f"written: {write_json(options.report, report)}")
    if not report["complete"]:
        return EXIT_INTERRUPTED
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
