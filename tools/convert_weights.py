"""Write weights in another layout: python tools/convert_weights.py --help"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import UserError, main_guard


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="Write weights in another layout, with architecture, source, checksum, preprocessing and "
        "classes inside. The numbers keep their bytes; the file is read back and compared.",
        epilog="Example: python tools/convert_weights.py timm://seresnet50.ra2_in1k se_resnet50.safetensors",
    )
    parser.add_argument("source", metavar="IN", help="file, or timm://NAME, torchvision://NAME, detectron2://PATH")
    parser.add_argument("out", metavar="OUT", help=".safetensors, .pth, or .pkl for detectron2")
    parser.add_argument(
        "--to",
        metavar="LAYOUT",
        default="ours",
        help="layout of OUT (ours): detectron2, timm, timm-legacy, torchvision, pytorchcv, …, as the network has it",
    )
    parser.add_argument("--arch", metavar="NAME", help="the network, where IN does not tell it")
    parser.add_argument(
        "--leave-out",
        metavar="NAME",
        nargs="+",
        default=[],
        help="tensors of IN that are no part of the network, with * for any text; all others must be",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT (never IN)")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    from se_backbones.weights import WeightsError, convert_file

    try:
        done = convert_file(
            options.source,
            options.out,
            options.to,
            architecture=options.arch,
            leave_out=options.leave_out,
            force=options.force,
        )
    except WeightsError as error:
        raise UserError(str(error)) from error
    print(done)


if __name__ == "__main__":
    sys.exit(main_guard(main))
