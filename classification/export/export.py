"""A classifier's checkpoint written as a file for another runtime: what ``tools/export.py`` does."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classification.evaluation.abstention import KEY
from classification.evaluation.evaluate import evaluate_classifier
from classification.export.graph import ClassifierGraph
from classification.exported import ExportedClassifier
from classification.images.batches import test_batches
from classification.images.transforms import TestTransform
from classification.model import ImageClassifier
from classification.task import ClassificationTask
from classification.train import load_index
from classification.trained import load_classifier
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.export.formats import Session
from engine.export.make import compare_speed, facts_of, make_file, report_of
from engine.export.options import Options
from engine.export.pictures import pictures_in
from engine.export.program import Graph
from engine.images.reading import read_image
from engine.inference import evaluated_exactly, for_inference
from engine.train.checkpoint import load_checkpoint
from engine.train.sampling import spread

from detectron2.config import CfgNode

COMPARED = 16  # images


def export_classifier(options: Options, task: ClassificationTask) -> dict:
    """Writes a classifier's file, and beside it a report: how far its answers are from the checkpoint's, the time and
    the size of both, and where asked for the accuracy of both on the validation set.

    Args:
        task: the checkpoint's.

    Returns:
        the report.

    Raises:
        UserError: the checkpoint, the images or the format do not do. No file is left.
    """
    options.check({"batch": "", "size": ""})
    model, cfg, classes = load_classifier(options.weights, None, "cpu", options.overrides)
    height, width = options.size or (cfg.INPUT.TEST_SIZE, cfg.INPUT.TEST_SIZE)
    if min(height, width) < 1:
        raise UserError("INPUT.TEST_SIZE is 0, images as they are: say --size HxW")
    graph = _graph(for_inference(model, options.dtype), options, height, width)
    stride = model.network.feature_info[model.network.stages[-1]].stride
    facts = facts_of(
        options, graph, cfg, task.info, classes, stride=stride, resize=cfg.INPUT.TEST_RESIZE, crop=cfg.INPUT.TEST_SIZE,
        **{KEY: load_checkpoint(options.weights).get(KEY)},
    )  # fmt: skip
    images = _images(options.images, cfg, task, max(COMPARED, options.batch_size), cfg.DATA.VAL)

    def calibration() -> list[dict[str, Tensor]]:
        found = _images((), cfg, task, options.calibration, cfg.DATA.TRAIN)
        return [{"images": part} for part in found.split(options.batch_size) if len(part) == options.batch_size]

    def check(session: Session) -> dict:
        return _check(session, model, images, options, cfg, task)

    return report_of(options, *make_file(options, graph, facts, calibration, check))


def _graph(model: ImageClassifier, options: Options, height: int, width: int) -> Graph:
    module = ClassifierGraph(model).eval()
    batch = max(options.batch_size, 2) if "batch" in options.dynamic else options.batch_size
    names = {0: ("batch", 1)} if "batch" in options.dynamic else {}
    names |= {2: ("height", 1), 3: ("width", 1)} if "size" in options.dynamic else {}
    example = torch.zeros(batch, 3, height, width, dtype=torch.uint8)
    return Graph(module, {"images": example}, module.outputs, {"images": names} if names else {})


def _images(paths: Sequence[Path], cfg: CfgNode, task: ClassificationTask, count: int, split: str) -> Tensor:
    """(N, 3, S, S) uint8, prepared as in an evaluation: of the files, or else of a split, spread over it."""
    if paths:
        transform = TestTransform(cfg)
        crops = [transform(read_image(path, cfg.INPUT.MAX_PIXELS)) for path in pictures_in(paths, count)]
        found = np.concatenate([crop if crop.ndim == 4 else crop[None] for crop in crops])
        return torch.from_numpy(found).permute(0, 3, 1, 2)
    try:
        index = load_index(task, cfg, split)
    except UserError as error:
        raise UserError(
            f"{error}. The images of the run are needed to compare: DATA.ROOT PATH, or --images PATH"
        ) from error
    positions = spread(range(len(index)), count)
    images = torch.cat([batch.images for batch in test_batches(index, positions, cfg)])
    return images.flatten(0, 1) if images.dim() == 5 else images


def _check(
    session: Session, model: ImageClassifier, images: Tensor, options: Options, cfg: CfgNode, task: ClassificationTask
) -> dict:
    exported = ExportedClassifier(session)
    with torch.inference_mode():
        own, theirs = model(images).double(), exported(images).double()
    if not theirs.isfinite().all():
        raise UserError(f"the exported model's answers are not finite in {options.precision}: use another precision")
    found = {
        "difference": {
            "images": len(images),
            "largest_logit": float((own - theirs).abs().max()),
            "logits_spread": float(own.max() - own.min()),
            "largest_probability": float((own.softmax(1) - theirs.softmax(1)).abs().max()),
            "same_first_class": int((own.argmax(1) == theirs.argmax(1)).sum()),
        }
    }
    batch, fused = images[: options.batch_size], for_inference(model)
    found |= compare_speed(options, lambda: fused(batch), lambda: exported(batch), len(batch))
    if options.evaluate:
        index = load_index(task, cfg, cfg.DATA.VAL)
        found["metric"] = {"data": index.source, "images": len(index)}
        with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
            for name, one in (("checkpoint", model), ("exported", exported)):
                figures = evaluate_classifier(one, index, evaluated_exactly(cfg), Path(folder) / name, task)
                found["metric"][name] = {key: figures[task.info.name][key] for key in ("top1", "top5")}
    return found
