"""A detector's AP on a set: predictions of all processes, brought together and scored once."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from detection.coco_ap.average_precision import evaluate_coco, format_table
from detection.data import DetectionData, test_batches
from detection.fused import detector_for_inference
from detection.losses import validation_losses
from detection.task_info import DETECTION
from engine import compat  # noqa: F401  (before detectron2)
from engine.device import autocast, choose_precision, device_of
from engine.json_files import write_json
from engine.report.metrics import VALIDATION
from engine.train.launch import raising_everywhere, shows_progress
from engine.train.sampling import shard

from detectron2.config import CfgNode
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def detect(model: nn.Module, data: DetectionData, cfg: CfgNode) -> list[dict]:
    """COCO result records of the whole set: image_id, category_id (the set's own), bbox (x, y, w, h in pixels of
    the original image), score, and segmentation from a model with masks.

    Each process predicts its share, every image exactly once. Returns the records in the order of the images in
    the first process, and an empty list in the others.
    """
    records = data.records()
    mine = [records[index] for index in shard(len(records), comm.get_rank(), comm.get_world_size())]
    results: list[dict] = []
    bar = tqdm(total=len(mine), desc="evaluating", unit="img", disable=not shows_progress(), leave=False)
    device = device_of(model)
    dtype = choose_precision(cfg.TEST.PRECISION, device)
    model = detector_for_inference(model, dtype) if cfg.TEST.FUSE else model
    with raising_everywhere(device), torch.inference_mode(), autocast(device, dtype), bar:
        for batch in test_batches(mine, cfg):
            for image, output in zip(batch, model(batch), strict=True):
                results += instances_to_coco_json(output["instances"].to("cpu"), image["image_id"])
            bar.update(len(batch))
    for result in results:
        result["category_id"] = data.category_ids[result["category_id"]]
    gathered = comm.gather(results, dst=0)
    return [result for part in gathered for result in part]


def evaluate_detector(model: nn.Module, data: DetectionData, cfg: CfgNode, run: Path) -> dict:
    """The COCO figures of a model in eval mode; the results file is written to the run folder.

    Returns:
        ``{"bbox": {"AP": …, …}, "per_category": …, "evaluator": …, "images": …, "images_per_second": …}``, and
        ``segm`` for a model with masks; with TEST.LOSS ``validation``, the ``validation_losses``; an empty dict in all
        processes but the first.
    """
    begin = time.perf_counter()
    results = detect(model, data, cfg)
    seconds = time.perf_counter() - begin
    losses = validation_losses(model, data, cfg) if cfg.TEST.LOSS else {}
    if not comm.is_main_process():
        comm.synchronize()
        return {}
    write_json(Path(run) / DETECTION.predictions_file, results, indent=None)
    types = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    figures = evaluate_coco(data.coco, results, types, class_names=data.class_names)
    if data.left_out:
        figures.notes.insert(0, f"of {data.json_path}: {data.left_out}; the figures are of the rest")
    logger.info("%s: %.1f img/s\n%s", data.name, len(data.coco["images"]) / seconds, format_table(figures))
    comm.synchronize()
    speed = {"images_per_second": round(len(data.coco["images"]) / seconds, 2)}
    return figures.to_dict() | speed | ({VALIDATION: losses} if losses else {})
