#!/usr/bin/env python
"""Train or evaluate an image classifier on any backbone, from class folders: train/CLASS/*.jpg and val/CLASS/*.jpg."""

import sys

from engine.errors import main_guard
from engine.run.command_line import parse_training, run_training, training_parser

EPILOG = """examples:
  %(prog)s --config configs/class_folders_se_resnet50.yaml --data my/images OUTPUT_DIR output/mine
  %(prog)s --config configs/class_folders_se_resnet50.yaml --data my/images --num-gpus 8
  %(prog)s --config output/mine/config.yaml --resume
  %(prog)s --config output/mine/config.yaml --eval-only TEST.CROPS 10
"""


def main() -> int:
    parser = training_parser(__doc__, EPILOG)
    parser.add_argument("--data", metavar="FOLDER", help="the images: class folders in train/ and val/")
    args, options = parse_training(parser, {"DATA.ROOT": "data"})

    def run() -> None:
        from classification.train import Options, run_classification  # only now: PyTorch takes seconds to import

        run_classification(Options(**options))

    return run_training(args, run)


if __name__ == "__main__":
    sys.exit(main_guard(main))
