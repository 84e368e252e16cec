"""A classifier out of an exported file, in the place of one out of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from classification.cam import ActivationMaps
from classification.config import TASKS, config_from_checkpoint
from engine import compat  # noqa: F401  (before detectron2)
from engine.device import choose_device
from engine.export.formats import Session, open_exported

from detectron2.config import CfgNode


class ExportedClassifier(nn.Module):
    """A file's classifier: takes images as ``ImageClassifier`` does.

    Attributes:
        session: the file in its runtime. device: where it runs.
        stride: of the last stage's map, in pixels.
    """

    def __init__(self, session: Session):
        super().__init__()
        self.session, self.device = session, session.device
        self.stride = session.facts.details["stride"]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 → logits, (N, classes) float32."""
        return self._run(images)[0]

    def activation_maps(self, images: Tensor, classes: Tensor | None = None) -> ActivationMaps:
        """As ``class_activation_maps``, of the likeliest five classes of each image, or one: of ``classes``, (N, C) in
        the order of preference, the first that is among the five. Zeros in one cell where the file has none."""
        found = self._run(images)
        logits = found[0]
        if len(found) == 1:
            return ActivationMaps(logits, logits.argmax(1, keepdim=True), logits.new_zeros(len(logits), 1, 1, 1))
        maps = found[1]
        best = logits.topk(maps.shape[1]).indices
        if classes is not None:
            places = (best[:, None] == classes[:, :, None]).flatten(1).int().argmax(1) % maps.shape[1]
            rows = torch.arange(len(maps))
            best, maps = best[rows, places][:, None], maps[rows, places][:, None]
        return ActivationMaps(logits, best, maps)

    def _run(self, images: Tensor) -> list[Tensor]:
        """A file of a fixed number of images takes them in parts, the last one filled up."""
        size = self.session.facts.fixed("images", 0)
        if size is None or size == len(images):
            return self.session(images=images)
        parts = []
        for part in images.split(size):
            missing = size - len(part)
            filled = torch.cat((part, part[-1:].expand(missing, -1, -1, -1))) if missing else part
            parts.append([output[: len(part)] for output in self.session(images=filled)])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


def load_exported_classifier(path: str | Path, device: str = "auto") -> tuple[ExportedClassifier, CfgNode, list[str]]:
    """A classifier that ``tools/export.py`` wrote.

    Args:
        device: see ``engine.device.choose_device``.

    Returns:
        it, the config of its run, and the class names.

    Raises:
        UserError: the file cannot be used.
    """
    session = open_exported(path, choose_device(device), TASKS)
    facts = session.facts
    cfg = config_from_checkpoint({"task": facts.task, "config": facts.config})
    return ExportedClassifier(session), cfg, list(facts.classes)
