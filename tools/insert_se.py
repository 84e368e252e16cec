#!/usr/bin/env python
"""Put squeeze-and-excitation into a trained plain network without changing what it computes."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import UserError, main_guard

EPILOG = """examples:
  %(prog)s torchvision://resnet50 se_resnet50.safetensors
  %(prog)s resnet18.pth se_resnet18.safetensors --reduction 8 16 16 16     (the widths of timm's seresnet18)
  %(prog)s R-50.pkl se_r50.safetensors --stages 3 4 5 --reduction 8
  %(prog)s output/plain/model_final.pth se_detector.safetensors
A detector or classifier can also take the plain weights itself: MODEL.SE.INSERT True in its config.
"""


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="IN", help="file in any layout, or timm://NAME, torchvision://NAME, …")
    parser.add_argument("out", metavar="OUT", help=".safetensors or .pth, in this package's layout")
    parser.add_argument(
        "--reduction", type=int, nargs="+", default=[16], help="one, or one a stage that has gates (16)"
    )
    parser.add_argument(
        "--placement", default="standard", help="standard, pre, inside; identity, post with --gate relu"
    )
    parser.add_argument("--stages", nargs="+", help="stages to get SE, by name or number (all)")
    parser.add_argument("--gate", default="sigmoid", help="sigmoid, the paper's, or relu")
    parser.add_argument("--squeeze", default="avg", help="avg, max or none")
    parser.add_argument("--arch", metavar="NAME", help="the plain network, where IN does not tell it")
    parser.add_argument("--seed", type=int, default=1, help="of the gates' first layers (1)")
    parser.add_argument("--force", action="store_true", help="overwrite OUT (never IN)")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    import torch

    from se_backbones import SEConfig
    from se_backbones.weights import WeightsError
    from se_backbones.weights.inserting import insert_se_into_file

    torch.manual_seed(options.seed)
    try:
        se = SEConfig(tuple(options.reduction), options.placement, options.stages, options.squeeze, options.gate)
        done = insert_se_into_file(options.source, options.out, se, architecture=options.arch, force=options.force)
    except (WeightsError, ValueError) as error:
        raise UserError(str(error)) from error
    print(done)


if __name__ == "__main__":
    sys.exit(main_guard(main))
