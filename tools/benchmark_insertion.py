#!/usr/bin/env python
"""What SE costs a trained detector when it is put in: as fresh gates, and as insert_se does it, beside no SE at all."""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import engine  # noqa: F401  (before PyTorch: engine/openmp.py)

# isort: split
import torch

from detection.config import config_from_checkpoint, load_config
from detection.evaluate import evaluate_detector
from detection.initial_weights import load_initial_weights
from detection.model import build_detector, with_classes
from detection.train import Options, load_data, run_detection
from engine.device import choose_device, hardware
from engine.errors import UserError, main_guard
from engine.report.metrics import read_metrics
from engine.report.plots import plot_comparison
from engine.run.folder import command, versions
from engine.train.checkpoint import load_checkpoint
from se_backbones import find_spec, twin_name
from se_backbones.files import write_atomically

EPILOG = """example, from the detector that configs/bccd_r50.yaml trained:
  DETECTRON2_DATASETS=FOLDER_WITH_bccd %(prog)s --weights output/bccd_r50/model_final.pth \\
      --json results/insertion_bccd.json --plot docs/insertion.png
"""
FIGURES = ("AP", "AP50", "AP75")


def variants(twin):
    """Name in the plot -> what differs; all three begin with the same plain weights."""
    architecture = ["MODEL.BACKBONE.ARCHITECTURE", twin]
    return {
        "no SE": [],
        "fresh gates": [*architecture, "MODEL.ALLOW", "['missing:*.se.*']"],
        "insert_se": [*architecture, "MODEL.SE.INSERT", "True"],
    }


def at_step_0(config, overrides, folder):
    """The figures of the weights that the training begins with."""
    cfg = load_config(config, overrides)
    data = load_data(cfg, "VAL", folder, drop_bad=False)
    cfg = with_classes(cfg, len(data.class_names), str(data.json_path))
    model = build_detector(cfg).eval()
    load_initial_weights(model, cfg, folder)
    with torch.inference_mode():
        figures = evaluate_detector(model, data, cfg, folder)
    return {"iteration": 0, **{f"bbox/{name}": figures["bbox"][name] for name in FIGURES}}


def curves(config, overrides, folder):
    """Evaluations, from step 0 on, and losses of one run: rows as in metrics.jsonl."""
    for name in logging.root.manager.loggerDict:  # the run before this one has its log file open
        logging.getLogger(name).handlers.clear()
    start_folder = folder.with_name(f"{folder.name}_start")
    start_folder.mkdir(parents=True, exist_ok=True)
    start = at_step_0(config, overrides, start_folder)
    run_detection(Options(config=str(config), overrides=[*overrides, "OUTPUT_DIR", str(folder)], overwrite=True))
    wanted = ("iteration", "total_loss", *(f"bbox/{name}" for name in FIGURES))
    rows = read_metrics(folder / "metrics.jsonl")
    return [start, *({key: row[key] for key in wanted if key in row} for row in rows)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", metavar="FILE", required=True, help="a plain detector's checkpoint, trained here")
    parser.add_argument("--iterations", type=int, default=60, help="of fine-tuning (60)")
    parser.add_argument("--eval-period", type=int, default=10, help="steps between two evaluations (10)")
    parser.add_argument("--lr", type=float, default=0.002, help="learning rate, falling to 0 by a cosine (0.002)")
    parser.add_argument("--output", metavar="FOLDER", default="output/insertion", help="for the three runs' folders")
    parser.add_argument("--json", metavar="FILE", help="keep the curves")
    parser.add_argument("--plot", metavar="FILE", help="draw AP over the steps (.png)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change, in all three")
    args = parser.parse_args()

    checkpoint = load_checkpoint(Path(args.weights))
    cfg = config_from_checkpoint(checkpoint)
    plain = cfg.MODEL.BACKBONE.ARCHITECTURE
    twin = twin_name(find_spec(plain), se=True)
    if checkpoint.get("se") or twin is None:
        raise UserError(f"{args.weights}: {plain} is no plain network with an SE twin in list_backbones()")
    output = Path(args.output)
    config = write_atomically(output / "config.yaml", cfg.dump())
    # fmt: off
    common = [
        "MODEL.WEIGHTS", args.weights, "MODEL.DEVICE", str(choose_device(args.device)),
        "SOLVER.MAX_ITER", str(args.iterations), "SOLVER.BASE_LR", str(args.lr), "SOLVER.WARMUP_ITERS", "0",
        "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.CHECKPOINT_PERIOD", "0", "SOLVER.KEEP_CHECKPOINTS", "1",
        "TEST.EVAL_PERIOD", str(args.eval_period), "LOG_PERIOD", "5", *args.overrides,
    ]
    # fmt: on
    begin = time.perf_counter()
    rows = {
        name: curves(config, [*common, *changes], output / name.replace(" ", "_"))
        for name, changes in variants(twin).items()
    }
    ap = {name: [(row["iteration"], row["bbox/AP"]) for row in run if "bbox/AP" in row] for name, run in rows.items()}
    result = {
        "benchmark": "insertion",
        "what": __doc__,
        "plain": plain,
        "twin": twin,
        "weights": Path(args.weights).name,
        "weights_iteration": checkpoint["iteration"],
        "AP_at_step_0": {name: points[0][1] for name, points in ap.items()},
        "AP_at_the_end": {name: points[-1][1] for name, points in ap.items()},
        "iterations": args.iterations,
        "learning_rate": args.lr,
        "batch": load_config(config, common).SOLVER.IMS_PER_BATCH,
        "curves": rows,
        "seconds": round(time.perf_counter() - begin, 1),
        "command": command(),
        "hardware": hardware(choose_device(args.device)),
        "versions": versions(),
    }
    if args.json:
        write_atomically(Path(args.json), json.dumps(result, indent=1) + "\n")
    if args.plot:
        plot_comparison(rows, "bbox/AP", Path(args.plot))
    for name, points in ap.items():
        print(f"{name:12}" + "  ".join(f"{step}: {value:.2f}" for step, value in points))
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
