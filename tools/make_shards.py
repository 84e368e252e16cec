#!/usr/bin/env python
"""Puts the images of a set for classification into few files: python tools/make_shards.py --data FOLDER --out SHARDS"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import UserError, main_guard
from engine.run.command_line import keep_work_when_killed

MB = 10**6


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Puts the images of a set for classification, millions of them, into few files, with names, labels "
        "and classes: DATA.ROOT SHARDS then trains and evaluates as DATA.ROOT FOLDER does, to the bit. The files are "
        "MDS shards, which mosaicml-streaming reads too. Interrupted, the same command goes on.",
        epilog="Exit code: 0 the shards are whole; 1 --check found damage; 2 something is to be put right first.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", metavar="FOLDER", help="DATA.ROOT of a config: class folders, lists, an archive, …")
    what.add_argument("--check", type=Path, metavar="SHARDS", help="compare the shards' checksums, and make nothing")
    parser.add_argument("--out", type=Path, metavar="SHARDS", help="folder of the shards, with one for each split")
    parser.add_argument("--splits", nargs="+", metavar="NAME", help="(train val; of --check: all)")
    parser.add_argument("--task", choices=("classification", "places365"), default="classification",
                        help="how it is read; places365: official lists, nested folders (%(default)s)")  # fmt: skip
    parser.add_argument("--images", choices=("auto", "256", "large"), default="auto", help="DATA.IMAGES (auto)")
    parser.add_argument("--size", type=float, default=256, metavar="MB", help="of a shard at most, up to 4,000 (256)")
    parser.add_argument("--max-broken-share", type=float, metavar="SHARE",
                        help="of the images that may be unreadable (DATA.MAX_BROKEN_SHARE's default)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=16, help="that read images (16)")
    parser.add_argument("--cache", metavar="FOLDER", help="folder of cached indices, DATA.CACHE of a config")
    options = parser.parse_args(arguments)
    if options.data is not None and options.out is None:
        parser.error("--data needs --out")
    if not 0 < options.size <= 4000 or options.threads < 1 or not 0 <= (options.max_broken_share or 0) <= 1:
        parser.error("--size above 0 and up to 4000, --threads from 1, --max-broken-share 0 to 1")
    return options


def make(options):
    from classification.config import get_cfg
    from classification.index.index import open_index
    from classification.shards.make import Options, make_shards
    from places365.task import CLASSIFICATION_TASKS

    share = options.max_broken_share
    share = get_cfg().DATA.MAX_BROKEN_SHARE if share is None else share
    how = Options(int(options.size * MB), share, options.threads)
    splits = options.splits or ["train", "val"]
    find = CLASSIFICATION_TASKS[options.task].find_split
    for name, split in [(name, find(options.data, name, options.images)) for name in splits]:
        index = open_index(split, options.cache)
        unreadable = make_shards(index, options.out / name, how)
        print(f"{options.out / name}: {len(index):,} images of {len(index.classes):,} classes")
        if unreadable:
            print(f"  {len(unreadable):,} could not be read and are empty there: {', '.join(unreadable[:5])}"
                  + (f", …; all in {options.out / name / 'made_of.json'}" if len(unreadable) > 5 else ""))  # fmt: skip
    return 0


def check(options):
    from classification.shards.check import check_shards
    from classification.shards.split import splits_in

    splits = options.splits or splits_in(options.check)
    if not splits:
        raise UserError(f"{options.check} has no shards")
    problems = []
    for name in splits:
        problems += check_shards(options.check, name)
    print("\n".join(problems or [f"{options.check}: all shards are what they were"]))
    return 1 if problems else 0


def main(arguments=None):
    options = parse(arguments)
    keep_work_when_killed()
    return make(options) if options.check is None else check(options)


if __name__ == "__main__":
    sys.exit(main_guard(main))
