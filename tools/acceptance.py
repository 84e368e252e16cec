#!/usr/bin/env python
"""Checks on real photos, too slow for the test suite: COCO records end to end, and one batch learnt by heart."""

import argparse
import json
import sys
from pathlib import Path

from engine.errors import UserError, main_guard
from engine.files import write_atomically

CONFIG = str(Path(__file__).resolve().parents[1] / "configs" / "coco_mini_se_r18.yaml")


def end_to_end(args):
    """Trains an epoch on coco_mini and evaluates: 80 classes, gapped ids mapped there and back, crowds."""
    from detection.coco_files import read_json
    from detection.config import load_config
    from detection.data import locate
    from detection.train import Options, run_detection

    result = run_detection(Options(config=CONFIG, overrides=args.overrides, overwrite=True))
    cfg = load_config(CONFIG, args.overrides)
    _, val_json, _ = locate(cfg, "VAL")
    ids = {category["id"] for category in read_json(val_json, "annotations")["categories"]}
    found = read_json(Path(cfg.OUTPUT_DIR) / "coco_instances_results.json", "results")
    return {
        "passed": len(result["per_category"]["bbox"]) == 80
        and bool(found)
        and {r["category_id"] for r in found} <= ids,
        **{key: result[key] for key in ("bbox", "images", "detections", "training_seconds", "hardware", "versions")},
    }


def overfit(args):
    """Trains on four photos alone: the loss must fall under a tenth of its start."""
    from detection.coco_files import read_json, write_json
    from detection.config import load_config
    from detection.data import locate
    from detection.train import Options, run_detection
    from engine.metrics import read_metrics, series

    cfg = load_config(CONFIG, args.overrides)
    _, train_json, folder = locate(cfg, "TRAIN")
    coco = read_json(train_json, "annotations")
    with_objects = {a["image_id"] for a in coco["annotations"] if not a["iscrowd"]}
    coco["images"] = [image for image in coco["images"] if image["id"] in with_objects][:4]
    chosen = {image["id"] for image in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in chosen]
    run = Path(cfg.OUTPUT_DIR) / "overfit"
    four = write_json(run.with_name("overfit.json"), coco)
    keys = {
        "DATA.TRAIN.JSON": four, "DATA.TRAIN.IMAGES": folder, "DATA.VAL.JSON": four, "DATA.VAL.IMAGES": folder,
        "INPUT.RANDOM_FLIP": "none", "SOLVER.MAX_ITER": args.steps, "LOG_PERIOD": 1, "OUTPUT_DIR": run,
    }  # fmt: skip
    words = [str(word) for pair in keys.items() for word in pair]
    result = run_detection(Options(config=CONFIG, overrides=[*args.overrides, *words], overwrite=True))
    losses = series(read_metrics(run / "metrics.jsonl"), "total_loss")[1]
    last = sum(losses[-10:]) / 10
    return {
        "passed": last < losses[0] / 10,
        "first_loss": losses[0],
        "last_loss": last,
        "images": sorted(chosen),
        "steps": args.steps,
        **{key: result[key] for key in ("bbox", "training_seconds", "hardware", "versions")},
    }


CHECKS = {"end-to-end": end_to_end, "overfit": overfit}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=CHECKS, help="; ".join(f"{k}: {f.__doc__}" for k, f in CHECKS.items()))
    parser.add_argument("--steps", type=int, default=300, help="of the overfit check")
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_intermixed_args()
    result = {"check": args.check, "what": CHECKS[args.check].__doc__, **CHECKS[args.check](args)}
    from engine.run import command

    text = json.dumps({**result, "command": command()}, indent=1)
    print(text)
    if args.json:
        write_atomically(Path(args.json), text + "\n")
    if not result["passed"]:
        raise UserError(f"the check {args.check} failed")


if __name__ == "__main__":
    sys.exit(main_guard(main))
