#!/usr/bin/env python
"""Attempt a table or figure of the paper: train what it compares, and write the result beside the published one."""

import argparse
import sys

from engine.errors import main_guard

EPILOG = """examples:
  %(prog)s reduction --data my/cifar10 --list
  %(prog)s reduction --data my/cifar10
  %(prog)s reduction --data my/cifar10 --resume --jobs 2
  %(prog)s reduction --scale paper --data my/imagenet --seeds 3 --num-gpus 8 --cell 4
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the study; none: which there are")
    parser.add_argument("--scale", default="cpu", choices=("cpu", "paper"), help="whose set-up: small, or the paper's")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="of each row (1)")
    parser.add_argument("--config", metavar="FILE", help="in place of the scale's own")
    parser.add_argument("--data", metavar="ROOT", help="the images: DATA.ROOT")
    parser.add_argument("--list", action="store_true", help="print the cells, and run nothing")
    parser.add_argument("--cell", type=int, action="append", default=[], metavar="K", help="run cell K alone")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time, on one machine (1)")
    parser.add_argument("--resume", action="store_true", help="go on with what was cut off")
    parser.add_argument("--report", action="store_true", help="run nothing, and report on what is there")
    parser.add_argument("--output", default="output/studies/runs", metavar="FOLDER", help="of the runs of all studies")
    parser.add_argument("--note", metavar="TEXT", help="a caveat of the data, beside every figure (the config's own)")
    parser.add_argument("--json", metavar="FILE", help="the result (results/studies/NAME.json)")
    parser.add_argument("--docs", default="docs/studies", metavar="FOLDER", help="of the pages made of the results")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (torchrun)")
    parser.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change in every cell")
    args = parser.parse_intermixed_args()  # flags may stand behind KEY VALUE too
    if args.name is None:
        from studies.index import format_studies

        print(format_studies())
        return 0

    if args.jobs < 1 or (args.jobs > 1 and args.num_gpus > 1):
        parser.error("--jobs must be at least 1, and 1 with --num-gpus: one or the other shares the machine")

    from engine.run.command_line import run_training

    def run() -> None:
        from studies.index import find_study  # only now: PyTorch takes seconds to import
        from studies.lab.command import run_study

        run_study(find_study(args.name), args)

    return run_training(args, run)


if __name__ == "__main__":
    sys.exit(main_guard(main))
