"""COCO AP of a detections file: python tools/evaluate_coco.py GROUND_TRUTH.json DETECTIONS.json [--json
OUT]"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import main_guard


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description="COCO AP of a detections file: the twelve figures and each category's AP in percent, "
        "equal to pycocotools'. Both files are in COCO's formats."
    )
    parser.add_argument("ground_truth", metavar="GROUND_TRUTH", help="instances annotations (JSON)")
    parser.add_argument(
        "detections",
        metavar="DETECTIONS",
        help="JSON list of {image_id, category_id, score, bbox and/or segmentation}",
    )
    parser.add_argument("--json", metavar="OUT", help="write figures, per-category AP and full-precision stats here")
    parser.add_argument(
        "--iou-types", nargs="+", metavar="TYPE", help="bbox, segm or both (default: what both files hold)"
    )
    parser.add_argument(
        "--evaluator",
        default="auto",
        metavar="NAME",
        help="hotcoco, faster-coco-eval, pycocotools, or auto (default): the fastest of them in the "
        "version that is tested to equal pycocotools",
    )
    parser.add_argument("--no-categories", action="store_true", help="print the twelve figures alone")
    parser.add_argument(
        "--analysis",
        metavar="FOLDER",
        help="write here what is wrong: worst mistakes, confusions, curves and thresholds of the categories (boxes)",
    )
    parser.add_argument("--images", metavar="FOLDER", help="of the images, for pictures of the worst mistakes")
    parser.add_argument("--compare", action="store_true", help="also time every installed evaluator on these files")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)

    from detection.coco_ap.average_precision import compare_evaluators, evaluate_coco, format_table
    from engine.errors import UserError
    from engine.json_files import write_json

    if options.images and not options.analysis:
        raise UserError("--images: the pictures are those of --analysis FOLDER")
    result = evaluate_coco(options.ground_truth, options.detections, options.iou_types, options.evaluator)
    written = write_json(options.json, result.to_dict()) if options.json else None
    print(format_table(result, categories=not options.no_categories))
    if options.compare:
        for iou_type in result.figures:
            for row in compare_evaluators(options.ground_truth, options.detections, iou_type):
                name = f"{row['evaluator']} {row['version']}"
                difference = f"largest difference {row['largest_difference']:.1e}"
                print(f"{iou_type} {name:<24}{row['seconds']:9.3f} s  {difference}")
    if options.analysis:
        from detection.analysis.analyse import analyse_detections  # only now: matplotlib takes a second to import

        analyse_detections(options.ground_truth, options.detections, Path(options.analysis), options.images)
    for path in filter(None, (written, options.analysis)):
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main_guard(main))
