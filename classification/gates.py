"""A classifier's gates on its validation images: what ``tools/gates.py`` does."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from torch import Tensor

from classification.evaluation.evaluate import MAX_NAMED
from classification.images.batches import test_batches
from classification.index.index import ImageIndex
from classification.task import ClassificationTask
from classification.train import load_index
from classification.trained import load_classifier
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.gates.look import Images, gated_sites, look
from engine.gates.options import Options
from engine.train.sampling import spread

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def look_at_classifier(options: Options, task: ClassificationTask) -> dict:
    """Watches a classifier's gates on the images of DATA.VAL, as an evaluation with one crop shows them.

    An image counts for its class; one that cannot be read is named in a warning and left out.

    Args:
        options: ``data`` stands for DATA.ROOT.
        task: the checkpoint's.

    Returns:
        what is in ``gates.json``.

    Raises:
        UserError: the checkpoint has no gates, or there is no such data.
    """
    options.check()
    root = [] if options.data is None else ["DATA.ROOT", str(options.data)]
    words = [*root, *options.overrides, "TEST.CROPS", "1"]
    model, cfg, _ = load_classifier(options.weights, None, options.device, words)
    gated_sites(model, options.weights)
    if not cfg.DATA.VAL:
        raise UserError("DATA.VAL is empty: name the split to look at, DATA.VAL NAME")
    index = load_index(task, cfg, cfg.DATA.VAL)
    positions = list(spread(range(len(index)), options.images or len(index)))
    counted = "an image counts for its class"
    images = Images(index.source, len(index), len(positions), index.classes, counted, _batches(index, positions, cfg))
    return look(options, model, cfg, task.info, images)


def _batches(index: ImageIndex, positions: list[int], cfg: CfgNode) -> Iterator[tuple[Tensor, Tensor]]:
    named = 0
    for batch in test_batches(index, positions, cfg):
        for _, message in batch.broken[: max(MAX_NAMED - named, 0)]:
            logger.warning("left out: %s", message)
        named += len(batch.broken)
        whole = batch.readable()
        if len(whole):
            yield whole.images, whole.labels
    if named > MAX_NAMED:
        logger.warning("and %d more are left out", named - MAX_NAMED)
