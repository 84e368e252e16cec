#!/usr/bin/env python
"""Train or evaluate a detector: Faster R-CNN, RetinaNet or Mask R-CNN on an SE backbone."""

import argparse
import sys

from engine.errors import main_guard

EPILOG = """examples:
  %(prog)s --config configs/faster_rcnn_se_r50.yaml
  %(prog)s --config configs/faster_rcnn_se_r50.yaml --num-gpus 8
  %(prog)s --config configs/faster_rcnn_se_r50.yaml --eval-only MODEL.WEIGHTS output/model_final.pth
  %(prog)s --config configs/faster_rcnn_se_r50.yaml --train-json my/train.json --train-images my/images \\
      --val-json my/val.json --val-images my/images OUTPUT_DIR output/mine
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", "--config-file", metavar="FILE", required=True, help="what to train; see configs/")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS or the run in OUTPUT_DIR")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in OUTPUT_DIR")
    parser.add_argument("--overwrite", action="store_true", help="begin again where OUTPUT_DIR already holds a run")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes on this machine (torchrun)")
    parser.add_argument("--device", default=None, metavar="D", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--drop-bad-records", action="store_true", help="leave out images and boxes that have errors")
    for split in ("train", "val"):
        parser.add_argument(f"--{split}-json", metavar="FILE", help=f"{split} annotations in COCO format")
        parser.add_argument(f"--{split}-images", metavar="FOLDER", help=f"the images of --{split}-json")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_intermixed_args()  # flags may stand behind KEY VALUE too
    flags = {
        "DATA.TRAIN.JSON": args.train_json,
        "DATA.TRAIN.IMAGES": args.train_images,
        "DATA.VAL.JSON": args.val_json,
        "DATA.VAL.IMAGES": args.val_images,
        "MODEL.DEVICE": args.device,
    }
    overrides = args.overrides + [word for key, value in flags.items() if value for word in (key, value)]
    from detection.train import Options, run_detection  # only now: Detectron2 takes seconds to import
    from engine.device import choose_device
    from engine.launch import relaunch

    code = relaunch(args.num_gpus, choose_device(args.device or "auto"))
    if code is not None:
        return code
    run_detection(
        Options(
            config=args.config,
            overrides=overrides,
            eval_only=args.eval_only,
            resume=args.resume,
            overwrite=args.overwrite,
            drop_bad_records=args.drop_bad_records,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
