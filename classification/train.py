"""A classification run from a config to its figures: what ``tools/train_classifier.py`` does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from classification.batch_size import classifier_step
from classification.config import config_from_checkpoint, in_steps, load_config
from classification.evaluation.abstention import KEY
from classification.evaluation.analysis import analyse_classifier, thresholds
from classification.evaluation.evaluate import evaluate_classifier
from classification.images.batches import ImageBatch, sampling_factors, training_batches
from classification.images.broken_files import BrokenFiles
from classification.images.crops import training_sizes
from classification.index.index import ImageIndex, open_index
from classification.index.remarks import remarks
from classification.initial_weights import load_initial_weights
from classification.loss import ClassificationLoss
from classification.model import ImageClassifier, build_network
from classification.predict.pictures import write_pictures
from classification.task import CLASS_FOLDERS, ClassificationTask
from engine import compat  # noqa: F401  (compat before detectron2)
from engine.device import hardware
from engine.errors import UserError
from engine.predict.image_files import describe_passed_over, perhaps_pictures
from engine.run import experiment
from engine.run.experiment import Options
from engine.run.folder import class_difference
from engine.run.initial_weights import allowed, load_trained_weights
from engine.run.resume import IMAGES, check_resume
from engine.run.statements import check_classes, steps_of
from engine.train.batch_size import with_batch_size
from engine.train.class_weights import class_weights
from engine.train.launch import once
from engine.train.schedule import build_schedule
from engine.train.trainer import Task, Trainer
from engine.train.trial import check_test_shapes, check_training_shapes

from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def run_classification(options: Options, task: ClassificationTask = CLASS_FOLDERS) -> dict:
    """Trains and evaluates, or evaluates alone, and leaves everything in the run folder.

    Args:
        task: what kind of data set it is.

    Returns:
        the figures, as in ``result.json``; an empty dict in all processes but the first.

    Raises:
        UserError: anything the person can put right, with what to do.
    """
    return experiment.run_experiment(options, load_config, partial(_train, task), partial(_evaluate_only, task))


def _train(task: ClassificationTask, options: Options, cfg: CfgNode, device: torch.device) -> dict:
    start = experiment.begin_training(options, cfg, device, task.info)
    train_index = load_index(task, cfg, cfg.DATA.TRAIN)
    val_index = load_index(task, cfg, cfg.DATA.VAL) if cfg.DATA.VAL else None
    if val_index is not None:
        _same_classes(train_index, val_index)

    then = config_from_checkpoint(start.checkpoint) if start.checkpoint is not None else None
    count, classes = len(train_index), len(train_index.classes)
    cfg = with_batch_size(cfg, device, count, then, lambda trial: classifier_step(trial, device, count, classes))
    here = in_steps(experiment.on_device(cfg, device), count)
    network = build_network(here, classes)
    _check_shapes(network, here)
    run, about = start.folder, {**describe(task, cfg, train_index), IMAGES: train_index.fingerprint()}
    if start.checkpoint is not None:
        check_resume(start, network, task.info, then, cfg, here.SOLVER.MAX_ITER, about, train_index.source)
    elif cfg.MODEL.WEIGHTS or cfg.MODEL.SE.INSERT:
        load_initial_weights(network, cfg, start.staging, train_index.classes)
    else:
        logger.info("no MODEL.WEIGHTS: training starts from random weights")
    if cfg.COMPILE:
        network.compile()  # in place; a copy of it, for averaged weights, computes eagerly
    factors = {network.head_path: cfg.SOLVER.HEAD_LR_FACTOR}
    schedule = partial(build_schedule, here)
    trainer = Trainer(network, here, schedule, run, start.checkpoint, factors)
    steps = _training_steps(trainer, task, train_index, val_index, here, run, about)
    figures = experiment.train(start, trainer, steps, task.info, cfg)
    with experiment.naming_the_weights(trainer, task.info):
        network = trainer.evaluated_model
        return _finish(task, run, figures, cfg, network, val_index, *trainer.account)


def _check_shapes(network: nn.Module, cfg: CfgNode) -> None:
    """Refuses, before anything is trained, sizes of images and of batches for which a layer has no result."""
    key = "INPUT.TRAIN_SIZE_START" if cfg.INPUT.TRAIN_SIZE_START else "INPUT.TRAIN_SIZE"
    check_training_shapes(network, cfg, training_sizes(cfg), key)
    if cfg.DATA.VAL:
        check_test_shapes(network, cfg.INPUT.TEST_SIZE, "INPUT.TEST_SIZE")


def _training_steps(
    trainer: Trainer,
    task: ClassificationTask,
    train_index: ImageIndex,
    val_index: ImageIndex | None,
    cfg: CfgNode,
    run: Path,
    description: dict,
) -> Task:
    """What the training loop needs to know of this training."""
    share = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if share % cfg.SOLVER.ACCUMULATE:
        raise UserError(
            f"each process's share of a batch, {share} images, cannot be cut into SOLVER.ACCUMULATE "
            f"{cfg.SOLVER.ACCUMULATE} equal parts"
        )
    # Here, so that what it refuses is refused before the run begins.
    loaded = training_batches(train_index, cfg, trainer.iteration, comm.get_rank(), comm.get_world_size())
    labels = np.asarray(train_index.labels)
    weights = class_weights(cfg.SOLVER.CLASS_WEIGHTS, labels, train_index.classes, sampling_factors(labels, cfg))
    normalise, loss = ImageClassifier(trainer.model, cfg).normalise, ClassificationLoss(cfg, weights)
    device = trainer.device

    def losses(network: nn.Module, batch: ImageBatch) -> dict:
        return loss(network, normalise(batch.images), batch.labels.to(device, non_blocking=True))

    def batches() -> Iterator[ImageBatch]:
        broken = BrokenFiles(run, len(train_index), cfg.DATA.MAX_BROKEN_SHARE, cfg.INPUT.MAX_PIXELS)
        for batch in loaded:
            broken.add(batch.broken, train_index)
            yield batch

    def evaluate(network: nn.Module) -> dict:
        return evaluate_classifier(ImageClassifier(network, cfg), val_index, cfg, run, task)

    return Task(
        batches=batches(),
        name_images=lambda batch: ", ".join(train_index.name(int(i)) for i in batch.chosen),
        advice="a longer SOLVER.WARMUP_EPOCHS",
        split=ImageBatch.split,
        evaluate=evaluate if val_index is not None else None,
        stated=lambda figures: {KEY: thresholds(val_index, figures)},
        describe=description,
        losses=losses,
        main_figure=task.info.main_figure,
    )


def _evaluate_only(task: ClassificationTask, options: Options, cfg: CfgNode, device: torch.device) -> dict:
    start, weights = experiment.begin_evaluation(options, cfg, device, task.info)
    if not cfg.DATA.VAL:
        raise UserError("DATA.VAL is empty: name the split to evaluate on")
    index = load_index(task, cfg, cfg.DATA.VAL)
    check_classes(weights, index.classes, index.source, allowed(weights, cfg))
    here = experiment.on_device(cfg, device)
    network = build_network(here, len(index.classes)).eval()
    check_test_shapes(network, here.INPUT.TEST_SIZE, "INPUT.TEST_SIZE")
    load_trained_weights(network, weights, cfg, task.info, start.staging)
    start.begin(cfg)
    run = start.folder
    with torch.inference_mode():
        figures = evaluate_classifier(ImageClassifier(network, cfg), index, here, run, task)
    figures["weights"] = weights.source
    return _finish(task, run, figures, cfg, network, index, [hardware(device)], steps_of(weights), None)


def _finish(
    task: ClassificationTask,
    run: Path,
    figures: dict,
    cfg: CfgNode,
    network: nn.Module,
    index: ImageIndex | None,
    made_on: Sequence[str],
    iteration: int | None,
    seconds: float | None,
) -> dict:
    if comm.is_main_process() and index is not None:
        analyse_classifier(run, index, figures, task.info.predictions_file, cfg.INPUT.MAX_PIXELS)

    def draw() -> None:
        if index is not None:
            write_pictures(run, ImageClassifier(network, cfg).eval(), index, cfg, task)

    dataset = f"{cfg.DATA.ROOT} {cfg.DATA.VAL}"
    return experiment.finish(run, figures, task.info, dataset, cfg, network, made_on, iteration, seconds, draw)


def load_index(task: ClassificationTask, cfg: CfgNode, split: str) -> ImageIndex:
    """The index of a split under DATA.ROOT; the first process reads the lists, the others what it left in the cache.

    Raises:
        UserError: there is no such data.
    """
    if not cfg.DATA.ROOT:
        raise UserError("DATA.ROOT is empty: give the folder or the archive with the images, DATA.ROOT PATH")
    found = task.find_split(cfg.DATA.ROOT, split, cfg.DATA.IMAGES)
    cache = Path(cfg.DATA.CACHE).expanduser() if cfg.DATA.CACHE else None
    built = []  # not what `once` gives: on another machine the cache may be another folder
    once(lambda: built.append(open_index(found, cache)))
    index = built[0] if built else open_index(found, cache)
    if not len(index):
        raise UserError(f"{index.source} has no images")
    logger.info("%s: %s, %s images, %d classes", split, index.source, f"{len(index):,}", len(index.classes))
    if index.passed_over and not perhaps_pictures(index.passed_over):  # else a remark says so
        logger.info("%s: passed over: %s", split, describe_passed_over(index.passed_over))
    for remark in remarks(index, training=split == cfg.DATA.TRAIN):
        logger.warning("%s: %s", split, remark)
    return index


def describe(task: ClassificationTask, cfg: CfgNode, index: ImageIndex) -> dict:
    """What a checkpoint says of itself besides its weights."""
    return experiment.description(task.info, cfg, index.classes)


def _same_classes(train: ImageIndex, val: ImageIndex) -> None:
    if difference := class_difference(train.classes, val.classes):
        raise UserError(f"the classes of {train.source} (first) and of {val.source} (second) differ:\n  {difference}")
