#!/usr/bin/env python
"""Parameters and multiply-adds of backbones, beside the paper's figures."""

import argparse
import sys

from engine.errors import UserError, main_guard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="backbones; all of them by default")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the image (that of each row's data set)")
    args = parser.parse_args()

    from tqdm import tqdm

    from engine.report.cost import cost_of, format_costs
    from se_backbones import list_backbones

    try:
        names = tqdm(args.names or list_backbones(), desc="counting", leave=False, disable=None)
        print(format_costs([cost_of(name, args.size) for name in names]))
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
