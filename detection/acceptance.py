"""Checks too slow for the test suite: on real photos, and of every family on the demonstration's drawn shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from detection.config import load_config
from detection.demo import run_demo
from detection.locate import locate
from detection.task_info import DETECTION
from detection.train import Options, run_detection
from engine.config.shipped import shipped_config
from engine.json_files import read_json, write_json
from engine.report.metrics import read_metrics, series

CONFIG = shipped_config("coco_mini_se_r18.yaml")
# One network of each family that detectors can stand on, besides the ResNets.
PYRAMIDS = ("se_mobilenet_v1", "se_shufflenet_v1_g3", "se_bn_inception", "se_vgg16", "se_inception_resnet_v2")
TRAIN_IMAGES, VAL_IMAGES = 800, 100  # drawn ones
MIN_AP = 10  # learnt at all in a few hundred steps from random weights: an untrained detector has 0


def end_to_end(overrides: Sequence[str] = ()) -> dict:
    """Trains an epoch on coco_mini and evaluates: 80 classes, gapped category ids mapped there and back, crowds."""
    result = run_detection(Options(config=str(CONFIG), overrides=overrides, overwrite=True))
    cfg = load_config(CONFIG, overrides)
    ids = {category["id"] for category in read_json(locate(cfg, "VAL")[1], "annotations")["categories"]}
    found = read_json(Path(cfg.OUTPUT_DIR) / DETECTION.predictions_file, "results")
    keys = ("bbox", "images", "detections", "training_seconds", "hardware", "versions")
    passed = len(result["per_category"]["bbox"]) == 80 and bool(found) and {r["category_id"] for r in found} <= ids
    return {"passed": passed, **{key: result[key] for key in keys}}


def overfit(overrides: Sequence[str] = (), steps: int = 300) -> dict:
    """Trains on four photos of coco_mini alone: the loss must fall under a tenth of its start."""
    cfg = load_config(CONFIG, overrides)
    _, train_json, folder = locate(cfg, "TRAIN")
    coco = read_json(train_json, "annotations")
    with_objects = {a["image_id"] for a in coco["annotations"] if not a["iscrowd"]}
    coco["images"] = [image for image in coco["images"] if image["id"] in with_objects][:4]
    chosen = {image["id"] for image in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in chosen]
    run = Path(cfg.OUTPUT_DIR) / "overfit"
    four = write_json(run.with_name("overfit.json"), coco)
    keys = {
        **{f"DATA.{split}.JSON": four for split in ("TRAIN", "VAL")},
        **{f"DATA.{split}.IMAGES": folder for split in ("TRAIN", "VAL")},
        "INPUT.RANDOM_FLIP": "none",
        "SOLVER.MAX_ITER": steps,
        "LOG_PERIOD": 1,
        "OUTPUT_DIR": run,
    }
    words = [str(word) for pair in keys.items() for word in pair]
    result = run_detection(Options(config=str(CONFIG), overrides=[*overrides, *words], overwrite=True))
    losses = series(read_metrics(run / "metrics.jsonl"), "total_loss")[1]
    last = sum(losses[-10:]) / 10
    return {
        "passed": last < losses[0] / 10,
        "first_loss": losses[0],
        "last_loss": last,
        "steps": steps,
        "images": sorted(chosen),
        **{key: result[key] for key in ("bbox", "training_seconds", "hardware", "versions")},
    }


def detectors(overrides: Sequence[str] = (), steps: int = 300, architectures: Sequence[str] = PYRAMIDS) -> dict:
    """Trains a Faster R-CNN with a feature pyramid on drawn shapes with each network, from random weights, as
    ``configs/demo.yaml`` does with SE-ResNet-18; each must find the shapes.

    Args:
        steps: of training, 8 images each.
    """
    found = {}
    for architecture in tqdm(architectures, desc="networks", disable=None):
        words = ["MODEL.BACKBONE.ARCHITECTURE", architecture, "SOLVER.MAX_ITER", str(steps), *overrides]
        run = run_demo(TRAIN_IMAGES, VAL_IMAGES, [*words, "OUTPUT_DIR", f"output/detectors/{architecture}"])
        result = read_json(run / "result.json", "result")
        keys = ("parameters", "iteration", "training_seconds")
        found[architecture] = {
            **{key: result[key] for key in keys},
            **{key: result["bbox"][key] for key in ("AP", "AP50", "AP75")},
        }
    return {
        "passed": all(row["AP"] >= MIN_AP for row in found.values()),
        "MIN_AP": MIN_AP,
        "architectures": found,
        **{key: result[key] for key in ("images", "evaluator", "hardware", "versions")},
    }
