"""A trained classifier that is to be made smaller."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from classification.config import config_from_checkpoint
from classification.evaluation.evaluate import evaluate_classifier
from classification.images.batches import ImageBatch, test_batches
from classification.index.index import ImageIndex
from classification.loss import ClassificationLoss
from classification.task import ClassificationTask
from classification.train import load_index, run_classification
from classification.trained import load_classifier
from engine import compat  # noqa: F401  (before detectron2)
from engine.config.dialect import load_config
from engine.errors import UserError
from engine.inference import evaluated_exactly, for_inference
from engine.run.experiment import Options
from engine.slim.subject import Score, Subject
from engine.train.checkpoint import load_checkpoint
from engine.train.sampling import spread

from detectron2.config import CfgNode


class ClassifierSubject(Subject):
    """As ``Subject``. The figure is top-1 accuracy, its standard error that of a share of so many images.

    Args:
        task: the checkpoint's.
    """

    def __init__(self, *args, task: ClassificationTask):
        super().__init__(*args)
        self.task = task
        self._indices: dict[str, ImageIndex] = {}

    def images(self, count: int) -> list[Tensor]:
        return [self.model.normalise(batch.images) for batch in self._batches(count)]

    def losses(self, count: int) -> Iterator[Callable[[], Tensor]]:
        loss = ClassificationLoss(_as_they_are(self.cfg))
        for batch in self._batches(count):
            if (batch.labels < 0).any():
                raise UserError(f"{self._index('TRAIN').source} has images without labels, which have no loss")
            images, labels = self.model.normalise(batch.images), batch.labels.to(self.device)
            yield lambda images=images, labels=labels: loss(self.network, images, labels)["loss_cls"]

    def evaluate(self) -> Score:
        index = self._index("VAL")
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            found = evaluate_classifier(self.model, index, evaluated_exactly(self.cfg), Path(folder), self.task)
        figures = found[self.info.name]
        share = figures["top1"] / 100
        error = 100 * math.sqrt(share * (1 - share) / found["images"])
        return Score("top1", figures["top1"], error, figures)

    def tensors(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def inference(self, model: nn.Module) -> Callable[[], object]:
        fused, images = for_inference(model), next(self._batches(1)).images
        return lambda: fused(images)

    def train(self, config: str, words: Sequence[str]) -> None:
        run_classification(Options(config=config, overrides=words, resume=True), self.task)

    def _index(self, split: str) -> ImageIndex:
        if not self.cfg.DATA[split]:
            raise UserError(f"DATA.{split} is empty: name the split, DATA.{split} NAME")
        if split not in self._indices:
            self._indices[split] = load_index(self.task, self.cfg, self.cfg.DATA[split])
        return self._indices[split]

    def _batches(self, count: int) -> Iterator[ImageBatch]:
        """Of the training split, one crop an image; those that cannot be read are left out."""
        index, cfg = self._index("TRAIN"), _as_they_are(self.cfg)
        found = 0
        for batch in test_batches(index, spread(range(len(index)), count), cfg):
            whole = batch.readable()
            found += len(whole)
            if len(whole):
                yield whole
        if not found:
            raise UserError(f"{index.source}: none of {min(count, len(index))} images can be read")


def _as_they_are(cfg: CfgNode) -> CfgNode:
    """The config with one crop of an image, which is not mixed with another."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.CROPS, cfg.INPUT.MIXUP, cfg.INPUT.CUTMIX = 1, 0.0, 0.0
    return cfg


def open_classifier(
    weights: Path,
    task: ClassificationTask,
    device: str = "auto",
    data: str | None = None,
    overrides: Sequence[str] = (),
) -> ClassifierSubject:
    """A classifier's checkpoint as a subject.

    Args:
        task: the checkpoint's.
        data: DATA.ROOT, in place of the run's.
        overrides: KEY VALUE pairs.

    Raises:
        UserError: as ``load_classifier``.
    """
    words = [*overrides, *(["DATA.ROOT", str(data)] if data else [])]
    model, cfg, _ = load_classifier(weights, None, device, words)
    checkpoint = load_checkpoint(Path(weights))
    stated = load_config(config_from_checkpoint(checkpoint), None, words)
    return ClassifierSubject(model, cfg, stated, checkpoint, Path(weights), task.info, task=task)
