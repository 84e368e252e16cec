#!/usr/bin/env python
"""Train or evaluate a scene classifier on an SE backbone: Places365, or other scenes in class folders."""

import sys

from engine.errors import main_guard
from engine.run.command_line import parse_training, run_training, training_parser

EPILOG = """examples:
  %(prog)s --config configs/places365_se_resnet50.yaml --data datasets/places365
  %(prog)s --config configs/places365_se_resnet50.yaml --num-gpus 8
  %(prog)s --config configs/places365_finetune_se_resnet50.yaml --data my/scenes OUTPUT_DIR output/mine
  %(prog)s --config output/mine/config.yaml --eval-only TEST.CROPS 10
"""
DATA = "the images: a folder in Places365's own layout, or class folders in train/ and val/, in a zip or tar too"


def main() -> int:
    parser = training_parser(__doc__, EPILOG)
    parser.add_argument("--data", metavar="PATH", help=DATA)
    args, options = parse_training(parser, {"DATA.ROOT": "data"})

    def run() -> None:
        from places365.train import Options, run_places365  # only now: PyTorch takes seconds to import

        run_places365(Options(**options))

    return run_training(args, run)


if __name__ == "__main__":
    sys.exit(main_guard(main))
