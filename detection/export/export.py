"""A detector's checkpoint written as a file for another runtime: what ``tools/export.py`` does."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from detection.data import TestSet
from detection.evaluate import evaluate_detector
from detection.export.graph import detector_graph
from detection.exported import ExportedDetector, fitted
from detection.fused import detector_for_inference
from detection.images import padded_size, test_input
from detection.task_info import DETECTION
from detection.thresholds import KEY
from detection.train import load_data_alone
from detection.trained import load_detector
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.export.formats import Session
from engine.export.make import compare_speed, facts_of, make_file, report_of
from engine.export.options import Options
from engine.export.pictures import pictures_in
from engine.export.program import Graph
from engine.images.reading import read_image
from engine.inference import evaluated_exactly
from engine.train.checkpoint import load_checkpoint
from engine.train.sampling import spread

from detectron2.config import CfgNode
from detectron2.structures import Instances, pairwise_iou

COMPARED = 8  # images
EXAMPLE = (512, 768)  # pixels
SURE = 0.3  # objects of lower scores come and go with rounding


def export_detector(options: Options) -> dict:
    """Writes a detector's file, and beside it a report: how far its objects are from the checkpoint's, the time and the
    size of both, and where asked for the AP of both on the validation set.

    Returns:
        the report.

    Raises:
        UserError: the checkpoint, the images or the format do not do. No file is left.
    """
    options.check({"size": "", "batch": "a detector's file takes one image at a time"})
    if options.batch_size != 1:
        raise UserError("--batch-size: a detector's file takes one image at a time")
    model, cfg, classes, ids = load_detector(options.weights, None, "cpu", options.overrides)
    multiple = int(model.backbone.size_divisibility) or 1
    images = _images(options.images, cfg, COMPARED, "VAL")
    graph = _graph(model, options, images, multiple)
    heads = cfg.MODEL.RETINANET if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else cfg.MODEL.ROI_HEADS
    facts = facts_of(
        options, graph, cfg, DETECTION, classes,
        category_ids=ids, multiple=multiple, score_threshold=heads.SCORE_THRESH_TEST,
        nms_threshold=heads.NMS_THRESH_TEST, shorter_side=cfg.INPUT.MIN_SIZE_TEST, longer_side=cfg.INPUT.MAX_SIZE_TEST,
        **{KEY: load_checkpoint(options.weights).get(KEY)},
    )  # fmt: skip

    def calibration() -> list[dict[str, Tensor]]:
        size = None if graph.dynamic else tuple(graph.inputs["image"].shape[2:])
        images = (entry["image"] for entry in _images((), cfg, options.calibration, "TRAIN"))
        return [dict(zip(("image", "size"), fitted(image, size, multiple), strict=True)) for image in images]

    def check(session: Session) -> dict:
        return _check(session, model, images, options, cfg)

    return report_of(options, *make_file(options, graph, facts, calibration, check))


def _graph(model: nn.Module, options: Options, images: Sequence[dict], multiple: int) -> Graph:
    """The graph for a size, or for any.

    Without one that is asked for, the commonest of some images: one that is smaller than the graph's is padded, and
    padding is part of what a squeeze sees, so that gates change.
    """
    dynamic = "size" in options.dynamic
    sizes = Counter(padded_size(image["image"].shape[1:], multiple) for image in images)
    # Where it can vary this is an example, in which no map is one place high or wide: that would be taken for a rule.
    height, width = EXAMPLE if dynamic else padded_size(options.size or sizes.most_common(1)[0][0], multiple)
    module = detector_graph(detector_for_inference(model, options.dtype), options.dtype)
    example = {
        "image": torch.zeros(1, 3, height, width, dtype=torch.uint8),
        "size": torch.tensor([height, width]),
    }
    any_size = {"image": {2: ("height", multiple), 3: ("width", multiple)}}
    return Graph(module, example, module.outputs, any_size if dynamic else {})


def _images(paths: Sequence[Path], cfg: CfgNode, count: int, split: str) -> list[dict]:
    """Images as a detector takes them: of the files, or else of a split, spread over it."""
    if paths:
        return [test_input(read_image(path, cfg.INPUT.MAX_PIXELS), cfg) for path in pictures_in(paths, count)]
    try:
        data = load_data_alone(cfg, split)
    except UserError as error:
        raise UserError(
            f"{error}. The images of the run are needed to compare: DATA.{split}.JSON and DATA.{split}.IMAGES, or "
            "--images PATH"
        ) from error
    records = TestSet(data.records(), cfg)
    return [records[index] for index in spread(range(len(records)), count)]


def _check(session: Session, model: nn.Module, images: list[dict], options: Options, cfg: CfgNode) -> dict:
    exported = ExportedDetector(session)
    with torch.inference_mode():
        pairs = [(model([image])[0]["instances"], exported([image])[0]["instances"]) for image in images]
    found = {"difference": {"images": len(images), **difference(pairs)}}
    fused, first = detector_for_inference(model), images[:1]
    found |= compare_speed(options, lambda: fused(first), lambda: exported(first), 1)
    if options.evaluate:
        data = load_data_alone(cfg, "VAL")
        found["metric"] = {"data": str(data.json_path), "images": len(data.coco["images"])}
        with tempfile.TemporaryDirectory() as folder:
            for name, one in (("checkpoint", model), ("exported", exported)):
                figures = evaluate_detector(one, data, evaluated_exactly(cfg), Path(folder) / name)
                found["metric"][name] = {
                    kind: {key: figures[kind][key] for key in DETECTION.main_figures}
                    for kind in ("bbox", "segm")
                    if kind in figures
                }
    return found


def difference(pairs: Sequence[tuple[Instances, Instances]]) -> dict:
    """What two detectors found on the same images, compared: each sure object of the first with the one of the second
    that lies best on it, of the same class and by more than half.

    Returns:
        {"objects", "matched", "largest_score", "largest_corner" (pixels)}, the largest differences of those matched.
    """
    objects = matched = 0
    score = corner = 0.0
    for own, theirs in pairs:
        sure = own[own.scores >= SURE]
        objects += len(sure)
        if not len(theirs):
            continue
        overlaps = pairwise_iou(sure.pred_boxes, theirs.pred_boxes)
        overlaps[sure.pred_classes[:, None] != theirs.pred_classes] = 0
        best, partner = overlaps.max(1)
        for row in (best > 0.5).nonzero()[:, 0].tolist():
            matched += 1
            other = int(partner[row])
            score = max(score, float((sure.scores[row] - theirs.scores[other]).abs()))
            corner = max(corner, float((sure.pred_boxes.tensor[row] - theirs.pred_boxes.tensor[other]).abs().max()))
    return {"objects": objects, "matched": matched, "largest_score": score, "largest_corner": corner}
