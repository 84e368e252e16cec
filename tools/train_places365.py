#!/usr/bin/env python
"""Train or evaluate a scene classifier on an SE backbone: Places365, or any set in class folders."""

import argparse
import sys

from engine.errors import main_guard

EPILOG = """examples:
  %(prog)s --config configs/places365_se_resnet50.yaml --data datasets/places365
  %(prog)s --config configs/places365_se_resnet50.yaml --num-gpus 8
  %(prog)s --config configs/places365_finetune_se_resnet50.yaml --data my/scenes OUTPUT_DIR output/mine
  %(prog)s --config output/mine/config.yaml --eval-only TEST.CROPS 10
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", "--config-file", metavar="FILE", required=True, help="what to train; see configs/")
    parser.add_argument("--data", metavar="FOLDER", help="the images: Places365's own layout, or train/ and val/")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS or the run in OUTPUT_DIR")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in OUTPUT_DIR")
    parser.add_argument("--overwrite", action="store_true", help="begin again where OUTPUT_DIR already holds a run")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (torchrun)")
    parser.add_argument("--device", default=None, metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_intermixed_args()  # flags may stand behind KEY VALUE too
    flags = {"DATA.ROOT": args.data, "MODEL.DEVICE": args.device}
    overrides = args.overrides + [word for key, value in flags.items() if value for word in (key, value)]
    from engine.device import choose_device  # only now: it takes seconds to import
    from engine.launch import relaunch
    from places365.train import Options, run_places365

    code = relaunch(args.num_gpus, choose_device(args.device or "auto"))
    if code is not None:
        return code
    run_places365(
        Options(
            config=args.config,
            overrides=overrides,
            eval_only=args.eval_only,
            resume=args.resume,
            overwrite=args.overwrite,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
