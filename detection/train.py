"""A detection run from a config to its figures: what ``tools/train_net.py`` does."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from detection.analysis.analyse import analyse_detections, class_thresholds
from detection.annotations.check import check_annotations, drop_bad_records
from detection.batch_size import detector_step
from detection.class_weights import weigh_classes
from detection.coco_ap.inputs import build_input
from detection.config import config_from_checkpoint, load_config
from detection.data import DetectionData, make_data, objects_of_an_epoch, to_learn_from, training_batches
from detection.evaluate import evaluate_detector
from detection.formats.voc import is_voc
from detection.initial_weights import load_initial_weights
from detection.locate import read_split
from detection.losses import seen_as_evaluated
from detection.model import build_detector, with_classes
from detection.predict.pictures import write_pictures
from detection.task_info import DETECTION
from detection.thresholds import KEY
from engine import compat  # noqa: F401  (compat before detectron2)
from engine.device import hardware
from engine.errors import UserError
from engine.run import experiment
from engine.run import folder as run_folder
from engine.run.initial_weights import allowed, load_trained_weights
from engine.run.resume import IMAGES, check_resume
from engine.run.statements import check_classes, steps_of
from engine.train.batch_size import with_batch_size
from engine.train.class_weights import class_weights
from engine.train.launch import once
from engine.train.sampling import shard
from engine.train.schedule import build_schedule
from engine.train.trainer import Task, Trainer
from engine.train.trial import check_training_shapes

from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)


@dataclass
class Options(experiment.Options):
    """The command line of a detection run; see ``tools/train_net.py --help``."""

    drop_bad_records: bool = False


def run_detection(options: Options) -> dict:
    """Trains and evaluates, or evaluates alone, and leaves everything in the run folder.

    Returns:
        the figures, as in ``result.json``; an empty dict in all processes but the first.

    Raises:
        UserError: anything the person can put right, with what to do.
    """
    return experiment.run_experiment(options, load_config, _train, _evaluate_only)


def _train(options: Options, cfg: CfgNode, device: torch.device) -> dict:
    start = experiment.begin_training(options, cfg, device, DETECTION)
    train_data = load_data(cfg, "TRAIN", start.staging, options.drop_bad_records, start.listings)
    val_data = load_data(cfg, "VAL", start.staging, options.drop_bad_records, start.listings)
    _same_classes(train_data, val_data)
    _warn_of_shared_images(train_data, val_data)
    _check_validation(val_data, cfg)
    cfg = with_classes(cfg, len(train_data.class_names), str(train_data.json_path))
    then = config_from_checkpoint(start.checkpoint) if start.checkpoint is not None else None
    images = len(train_data.coco["images"])
    cfg = with_batch_size(cfg, device, images, then, lambda trial: detector_step(trial, device, train_data))

    run, about = start.folder, {**describe(cfg, train_data), IMAGES: train_data.fingerprint()}
    model = build_detector(experiment.on_device(cfg, device))
    side = _smallest_side(train_data, cfg, model.backbone.size_divisibility)
    check_training_shapes(model.backbone, cfg, [side], "INPUT.MIN_SIZE_TRAIN")
    if start.checkpoint is not None:
        check_resume(start, model, DETECTION, then, cfg, cfg.SOLVER.MAX_ITER, about, str(train_data.json_path))
    elif cfg.MODEL.WEIGHTS or cfg.MODEL.SE.INSERT:
        load_initial_weights(model, cfg, start.staging, train_data.class_names)
    else:
        logger.info("no MODEL.WEIGHTS: training starts from random weights")
    if cfg.SOLVER.CLASS_WEIGHTS:
        objects, factors = objects_of_an_epoch(train_data, cfg)
        weigh_classes(model, class_weights(cfg.SOLVER.CLASS_WEIGHTS, objects, train_data.class_names, factors))
    trainer = Trainer(model, cfg, partial(build_schedule, cfg), run, start.checkpoint)
    task = Task(
        batches=training_batches(train_data, cfg, trainer.iteration, comm.get_rank(), comm.get_world_size()),
        name_images=lambda batch: ", ".join(f"{image['image_id']} ({image['file_name']})" for image in batch),
        advice="a longer SOLVER.WARMUP_ITERS, look at these images' annotations",
        split=_split,
        evaluate=lambda network: evaluate_detector(network, val_data, cfg, run),
        stated=lambda _: _thresholds(run, val_data),
        describe=about,
        main_figure=DETECTION.main_figure,
    )
    figures = experiment.train(start, trainer, task, DETECTION, cfg)
    with experiment.naming_the_weights(trainer, DETECTION):
        network = trainer.evaluated_model
        return _finish(run, figures, cfg, network, val_data, *trainer.account)


def _evaluate_only(options: Options, cfg: CfgNode, device: torch.device) -> dict:
    start, weights = experiment.begin_evaluation(options, cfg, device, DETECTION)
    data = load_data(cfg, "VAL", start.staging, options.drop_bad_records, start.listings)
    _check_validation(data, cfg)
    try:
        check_classes(weights, data.class_names, str(data.json_path), allowed(weights, cfg))
    except UserError as error:
        raise UserError(f"{error}{_advice(data.json_path)}") from None
    cfg = with_classes(cfg, len(data.class_names), str(data.json_path))
    model = build_detector(experiment.on_device(cfg, device)).eval()
    load_trained_weights(model, weights, cfg, DETECTION, start.staging)
    start.begin(cfg)
    run = start.folder
    with torch.inference_mode():
        figures = evaluate_detector(model, data, cfg, run)
    figures["weights"] = weights.source
    return _finish(run, figures, cfg, model, data, [hardware(device)], steps_of(weights), None)


def _finish(
    run: Path,
    figures: dict,
    cfg: CfgNode,
    model: nn.Module,
    data: DetectionData,
    made_on: Sequence[str],
    iteration: int | None,
    seconds: float | None,
) -> dict:
    if comm.is_main_process():
        found = run / DETECTION.predictions_file
        asked = {"class_names": data.class_names, "source": data.name, "max_pixels": cfg.INPUT.MAX_PIXELS}
        analysis = analyse_detections(data.coco, found, run, data.image_root, **asked)
        figures = {**figures, "confused_pairs": analysis["confused_pairs"]}
    draw = partial(write_pictures, run, data, max_pixels=cfg.INPUT.MAX_PIXELS)
    return experiment.finish(run, figures, DETECTION, data.name, cfg, model, made_on, iteration, seconds, draw)


def _thresholds(run: Path, data: DetectionData) -> dict:
    """What weights state of the classes' thresholds: those of the predictions that their evaluation has left in the
    run's folder."""
    return {KEY: class_thresholds(data.coco, run / DETECTION.predictions_file, data.class_names, data.name)}


def load_data(cfg: CfgNode, split: str, run: Path, drop_bad: bool, refused: Path | None = None) -> DetectionData:
    """Locates, checks and reads the TRAIN or VAL set of a config.

    Args:
        run: the folder for ``annotation_problems_<split>.json``, which lists all that is wrong.
        refused: the folder for it where the set is refused; by default the same.

    Raises:
        UserError: it is missing, or its annotations have errors and ``drop_bad`` is not set.
    """
    name, found = read_split(cfg, split)
    coco, json_path, images = found.coco, found.path, found.images
    masks, for_evaluation, left_out = cfg.MODEL.MASK_ON, split == "VAL", ""
    asked = {"need_masks": masks, "for_evaluation": for_evaluation, "max_pixels": cfg.INPUT.MAX_PIXELS}
    asked["origin"] = found.origin
    report = once(lambda: check_annotations(coco, images, name=str(json_path), **asked))
    if report.problems:
        goes_on = report.ok or drop_bad
        listing = (run if goes_on else refused or run) / f"annotation_problems_{split.lower()}.json"
        if comm.is_main_process():
            report.write(listing)
            where = f"{listing.name} in the folder of the run" if goes_on else listing
            logger.warning("%s\nall of them: %s", report.format(), where)
        if not goes_on:
            raise UserError(
                f"{json_path} has errors (listed above; in full in {listing}). Mend them, or go on without the bad "
                f"records: --drop-bad-records"
            )
        if not report.ok:
            coco, dropped = drop_bad_records(coco, report)
            logger.warning("%s: %s", json_path, dropped)
            left_out = str(dropped)
    data = make_data(name, json_path, images, coco, masks, left_out)
    if for_evaluation:
        once(lambda: _try_evaluation(data))
    logger.info(
        "%s: %s, %d images, %d annotations (%d of them crowds), %d classes",
        split.lower(), json_path, len(coco["images"]), len(coco["annotations"]), data.crowds, len(data.class_names),
    )  # fmt: skip
    return data


def load_data_alone(cfg: CfgNode, split: str) -> DetectionData:
    """``load_data`` outside of a run, which keeps no list of what is wrong and drops no records."""
    with tempfile.TemporaryDirectory() as folder:
        return load_data(cfg, split, Path(folder), drop_bad=False)


def _try_evaluation(data: DetectionData) -> None:
    """Reads the set as its evaluation after the training will, so that nothing in it can stop that.

    Raises:
        UserError: as ``evaluate_coco``; or there is no image to evaluate on.
    """
    if not data.coco["images"]:
        raise UserError(f"{data.json_path} has no images to evaluate on")
    if len(data.coco["annotations"]) == data.crowds:
        logger.warning("%s has no object to find: AP will be empty", data.json_path)
    for iou_type in ("bbox", "segm") if data.with_masks else ("bbox",):
        build_input(data.coco, [], iou_type)


def _check_validation(data: DetectionData, cfg: CfgNode) -> None:
    """Refuses, before anything is trained, a set whose losses are asked for and cannot be had."""
    if cfg.TEST.LOSS:
        to_learn_from(data, seen_as_evaluated(cfg))


def _smallest_side(data: DetectionData, cfg: CfgNode, divisibility: int) -> int:
    """The longer side of the smallest training image as the network sees it, in pixels, padded."""
    short, longest = min(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN

    def side(image: dict) -> int:
        sides = sorted((image["width"], image["height"]))
        if short == 0:  # as it is
            return sides[1]
        if cfg.INPUT.CROP.ENABLED:  # of any shape
            return short
        return min(round(sides[1] * short / sides[0]), longest)

    smallest = max(min(map(side, data.coco["images"]), default=longest), 1)
    return -(-smallest // divisibility) * divisibility if divisibility else smallest


def describe(cfg: CfgNode, data: DetectionData) -> dict:
    """What a checkpoint says of itself besides its weights."""
    return {**experiment.description(DETECTION, cfg, data.class_names), "category_ids": data.category_ids}


def _split(batch: list, parts: int) -> list[list]:
    shares = (shard(len(batch), part, parts) for part in range(parts))
    return [[batch[index] for index in share] for share in shares if share]


def _same_classes(train: DetectionData, val: DetectionData) -> None:
    difference = run_folder.class_difference(train.class_names, val.class_names)
    if difference or train.category_ids != val.category_ids:
        difference = difference or "the same, under other ids"
        paths = train.json_path, val.json_path
        raise UserError(f"the categories of {paths[0]} and {paths[1]} differ:\n  {difference}{_advice(*paths)}")


def _advice(*paths: Path) -> str:
    """What may help where classes of sets differ."""
    if not any(path.is_dir() and is_voc(path) for path in paths):
        return ""
    return (
        "\nThe classes of a Pascal VOC folder are the names in its XML files, or those of a classes.txt in it, one a "
        "line: with the same one in all folders, a class may lack objects"
    )


def _warn_of_shared_images(train: DetectionData, val: DetectionData) -> None:
    """A folder without lists or splits of its own, named twice, is one set."""
    files = [{str(data.image_root / image["file_name"]) for image in data.coco["images"]} for data in (train, val)]
    if shared := len(files[0] & files[1]):
        logger.warning("%d of %d validation images are trained on: AP tells little of others", shared, len(files[1]))
