#!/usr/bin/env python
"""Train or evaluate a detector: Faster R-CNN, RetinaNet or Mask R-CNN on an SE backbone."""

import sys

from engine.errors import main_guard
from engine.run.command_line import parse_training, run_training, training_parser

EPILOG = """examples:
  %(prog)s --config configs/faster_rcnn_se_r50.yaml
  %(prog)s --config configs/faster_rcnn_se_r50.yaml --num-gpus 8
  %(prog)s --config configs/faster_rcnn_se_r50.yaml --eval-only MODEL.WEIGHTS output/model_final.pth
  %(prog)s --config configs/faster_rcnn_se_r50.yaml --train-json my/train.json --train-images my/images \\
      --val-json my/val.json --val-images my/images OUTPUT_DIR output/mine
  %(prog)s --config configs/faster_rcnn_se_r50.yaml --train-json my/data.yaml --val-json my/data.yaml
"""


def main() -> int:
    parser = training_parser(__doc__, EPILOG)
    parser.add_argument("--drop-bad-records", action="store_true", help="leave out images and boxes that have errors")
    keys = {}
    for split in ("train", "val"):
        parser.add_argument(f"--{split}-json", metavar="FILE", help=f"{split} annotations: COCO json, VOC or YOLO")
        parser.add_argument(f"--{split}-images", metavar="FOLDER", help=f"the images of a COCO --{split}-json")
        keys |= {f"DATA.{split.upper()}.JSON": f"{split}_json", f"DATA.{split.upper()}.IMAGES": f"{split}_images"}
    args, options = parse_training(parser, keys)

    def run() -> None:
        from detection.train import Options, run_detection  # only now: Detectron2 takes seconds to import

        run_detection(Options(**options, drop_bad_records=args.drop_bad_records))

    return run_training(args, run)


if __name__ == "__main__":
    sys.exit(main_guard(main))
