"""Pictures of a run's predictions, beside the truth."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from classification.index.index import ImageIndex
from classification.model import ImageClassifier
from classification.predict.draw import draw_comparison
from classification.predict.predictor import Predictor
from classification.task import CLASS_FOLDERS, ClassificationTask
from engine import compat  # noqa: F401  (before detectron2)
from engine.images.reading import UnreadableImage
from engine.images.writing import write_image
from engine.predict.result_names import ResultNames, flat_picture_name

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def write_pictures(
    run: Path,
    model: ImageClassifier,
    index: ImageIndex,
    cfg: CfgNode,
    task: ClassificationTask = CLASS_FOLDERS,
    count: int = 8,
) -> list[Path]:
    """Draws some images with their truth, and beside them with the prediction, into ``predictions/``.

    Args:
        run: a run folder.
        model: in eval mode.
        index: the evaluated set; an image that cannot be read is passed over.
        count: how many, spread evenly over the set.

    Returns:
        the files.
    """
    predictor, paths = Predictor(model, cfg, index.classes, task), []
    folder = Path(run) / "predictions"
    names = ResultNames(folder)
    for position in np.unique(np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int)).tolist():
        try:
            image = index.read(position, cfg.INPUT.MAX_PIXELS)
        except UnreadableImage as error:
            logger.warning("no picture of %s", error)
            continue
        label = index.label(position)
        drawn = draw_comparison(image, predictor.predict([image])[0], index.classes, None if label < 0 else label)
        paths.append(write_image(folder / names.unused(flat_picture_name(index.name(position))), drawn))
    return paths
