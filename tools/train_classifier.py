#!/usr/bin/env python
"""Train or evaluate an image classifier on any backbone: class folders, on disk or in a zip or tar; ImageNet; CIFAR."""

import sys

from engine.errors import main_guard
from engine.run.command_line import parse_training, run_training, training_parser

EPILOG = """examples:
  %(prog)s --config configs/class_folders_se_resnet50.yaml --data my/images OUTPUT_DIR output/mine
  %(prog)s --config configs/class_folders_se_resnet50.yaml --data my/images.zip --num-gpus 8
  %(prog)s --config output/mine/config.yaml --resume
  %(prog)s --config output/mine/config.yaml --eval-only TEST.CROPS 10
"""
DATA = (
    "the images, the first that is there of: class folders train/CLASS/ and val/CLASS/; ImageNet's flat val/ with a "
    "list of its labels; the official files of CIFAR-10, CIFAR-100 or STL-10. A folder, or one uncompressed zip or tar "
    "of it (zip -0 -r, tar -cf), which is read in place; of the official files also the .tar.gz"
)


def main() -> int:
    parser = training_parser(__doc__, EPILOG)
    parser.add_argument("--data", metavar="PATH", help=DATA)
    args, options = parse_training(parser, {"DATA.ROOT": "data"})

    def run() -> None:
        from classification.train import Options, run_classification  # only now: PyTorch takes seconds to import

        run_classification(Options(**options))

    return run_training(args, run)


if __name__ == "__main__":
    sys.exit(main_guard(main))
