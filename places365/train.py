"""A scene-classification run from a config to its figures: what ``tools/train_places365.py`` does."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from classification.config import config_from_checkpoint, in_steps, load_config
from classification.evaluation.evaluate import evaluate_classifier
from classification.evaluation.pictures import write_pictures
from classification.images.batches import SceneBatch, training_batches
from classification.images.broken_files import BrokenFiles
from classification.index.index import ImageIndex, open_index
from classification.initial_weights import load_initial_weights
from classification.loss import SceneLoss
from classification.model import SceneClassifier, build_network
from engine import compat  # noqa: F401  (compat before detectron2)
from engine.errors import UserError
from engine.run import experiment
from engine.run import folder as run_folder
from engine.run.experiment import Options
from engine.run.initial_weights import load_trained_weights
from engine.train.launch import once
from engine.train.trainer import Task, Trainer
from places365.layout import find_split

from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm

logger = logging.getLogger(__name__)


def run_places365(options: Options) -> dict:
    """Trains and evaluates, or evaluates alone, and leaves everything in the run folder.

    Returns:
        the figures, as in ``result.json``; an empty dict in all processes but the first.

    Raises:
        UserError: anything the person can put right, with what to do.
    """
    return experiment.run_experiment(options, load_config, _train, _evaluate_only)


def _train(options: Options, cfg: CfgNode, device: torch.device) -> dict:
    run, checkpoint = experiment.begin_training(options, cfg, device)
    train_index = load_index(cfg, cfg.DATA.TRAIN)
    val_index = load_index(cfg, cfg.DATA.VAL) if cfg.DATA.VAL else None
    if val_index is not None:
        _check_classes("the training set", train_index.classes, val_index)
    if comm.is_main_process():
        run_folder.write_config(run, cfg)

    here = in_steps(experiment.on_device(cfg, device), len(train_index))
    network = build_network(here, len(train_index.classes))
    if checkpoint is not None:
        run_folder.announce_changes(config_from_checkpoint(checkpoint), cfg)
        _check_classes("the run to go on with", checkpoint["classes"], train_index)
    elif cfg.MODEL.WEIGHTS or cfg.MODEL.SE.INSERT:
        load_initial_weights(network, cfg, run, train_index.classes)
    else:
        logger.info("no MODEL.WEIGHTS: training starts from random weights")
    if cfg.COMPILE:
        network.compile()  # in place; a copy of it, for averaged weights, computes eagerly
    factors = {network.head_path: cfg.SOLVER.HEAD_LR_FACTOR}
    trainer = Trainer(network, here, lambda optimizer: build_lr_scheduler(here, optimizer), run, checkpoint, factors)
    figures = experiment.train(
        trainer, _make_task(trainer, train_index, val_index, here, run, describe(cfg, train_index))
    )
    network = trainer.evaluated_model
    return _finish(run, figures, cfg, network, val_index, device, trainer.iteration, trainer.seconds)


def _make_task(
    trainer: Trainer, train_index: ImageIndex, val_index: ImageIndex | None, cfg: CfgNode, run: Path, description: dict
) -> Task:
    share = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if share % cfg.SOLVER.ACCUMULATE:
        raise UserError(
            f"each process's share of a batch, {share} images, cannot be cut into SOLVER.ACCUMULATE "
            f"{cfg.SOLVER.ACCUMULATE} equal parts"
        )
    normalise, loss = SceneClassifier(trainer.model, cfg).normalise, SceneLoss(cfg)
    device = trainer.device

    def losses(network: nn.Module, batch: SceneBatch) -> dict:
        return loss(network, normalise(batch.images), batch.labels.to(device, non_blocking=True))

    def batches() -> Iterator[SceneBatch]:
        broken = BrokenFiles(run, len(train_index), cfg.DATA.MAX_BROKEN_SHARE)
        rank, processes = comm.get_rank(), comm.get_world_size()
        for batch in training_batches(train_index, cfg, trainer.iteration, rank, processes):
            broken.add(batch.broken, train_index)
            yield batch

    def evaluate(network: nn.Module) -> dict:
        return evaluate_classifier(SceneClassifier(network, cfg), val_index, cfg, run)

    return Task(
        batches=batches(),
        name_images=lambda batch: ", ".join(train_index.name(int(i)) for i in batch.chosen),
        advice="a longer SOLVER.WARMUP_EPOCHS",
        split=SceneBatch.split,
        evaluate=evaluate if val_index is not None else None,
        describe=description,
        losses=losses,
    )


def _evaluate_only(options: Options, cfg: CfgNode, device: torch.device) -> dict:
    run, source, checkpoint = experiment.begin_evaluation(options, cfg, device, "places365")
    if not cfg.DATA.VAL:
        raise UserError("DATA.VAL is empty: name the split to evaluate on")
    index = load_index(cfg, cfg.DATA.VAL)
    if checkpoint is not None:
        _check_classes(f"the weights in {source}", checkpoint["classes"], index)
    here = experiment.on_device(cfg, device)
    network = build_network(here, len(index.classes)).eval()
    load_trained_weights(network, source, checkpoint, cfg, run)
    if comm.is_main_process():
        run_folder.write_config(run, cfg)
    with torch.inference_mode():
        figures = evaluate_classifier(SceneClassifier(network, cfg), index, here, run)
    figures["weights"] = source
    iteration = checkpoint["iteration"] if checkpoint is not None else None
    return _finish(run, figures, cfg, network, index, device, iteration, None)


def _finish(
    run: Path,
    figures: dict,
    cfg: CfgNode,
    network: nn.Module,
    index: ImageIndex | None,
    device: torch.device,
    iteration: int | None,
    seconds: float | None,
) -> dict:
    def draw() -> None:
        if index is not None:
            write_pictures(run, SceneClassifier(network, cfg).eval(), index, cfg)

    dataset = f"{cfg.DATA.ROOT} {cfg.DATA.VAL}"
    return experiment.finish(run, figures, "places365", dataset, cfg, network, device, iteration, seconds, draw)


def load_index(cfg: CfgNode, split: str) -> ImageIndex:
    """The index of a split under DATA.ROOT; the first process reads the lists, the others what it left in the cache.

    Raises:
        UserError: there is no such data.
    """
    if not cfg.DATA.ROOT:
        raise UserError("DATA.ROOT is empty: give the folder with the images, DATA.ROOT FOLDER")
    found = find_split(find_root(cfg.DATA.ROOT), split, cfg.DATA.IMAGES)
    cache = Path(cfg.DATA.CACHE).expanduser() if cfg.DATA.CACHE else None
    built = []  # not what `once` gives: on another machine the cache may be another folder
    once(lambda: built.append(open_index(found, cache)))
    index = built[0] if built else open_index(found, cache)
    if not len(index):
        raise UserError(f"{index.source} has no images")
    logger.info("%s: %s, %s images, %d classes", split, index.source, f"{len(index):,}", len(index.classes))
    return index


def find_root(root: str) -> Path:
    """DATA.ROOT here, or else in ``$PLACES365_DATASETS`` (``datasets`` by default). A Python package is passed over:
    in the repository, "places365" is this one."""
    here = Path(root).expanduser()
    elsewhere = Path(os.environ.get("PLACES365_DATASETS", "datasets")).expanduser() / root
    if here.exists() and not (here / "__init__.py").exists():
        return here
    if not elsewhere.exists():
        raise UserError(f"DATA.ROOT: there is no folder of images {here}, nor {elsewhere}")
    return elsewhere


def describe(cfg: CfgNode, index: ImageIndex) -> dict:
    """What a checkpoint says of itself besides its weights."""
    return experiment.description("places365", cfg, index.classes)


def _check_classes(whose: str, classes: Sequence[str], index: ImageIndex) -> None:
    if difference := run_folder.class_difference(classes, index.classes):
        raise UserError(f"the classes of {whose} (first) and of {index.source} (second) differ:\n  {difference}")
