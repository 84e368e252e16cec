"""A detector's gates on its validation images: what ``tools/gates.py`` does."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from detection.data import test_batches
from detection.formats.read import OTHER_FORMS, image_folder
from detection.task_info import DETECTION
from detection.train import load_data_alone
from detection.trained import load_detector
from engine import compat  # noqa: F401  (before detectron2)
from engine.gates.look import Images, gated_sites, look
from engine.gates.options import Options
from engine.train.sampling import spread
from se_backbones.backbone import detached_stages

from detectron2.config import CfgNode

IMAGES_KEY = "DATA.VAL.IMAGES"


def look_at_detector(options: Options) -> dict:
    """Watches a detector's gates on the images of DATA.VAL, as an evaluation shows them.

    An image counts for each class of which it holds objects, crowds among them, once whatever their number; one
    without objects counts for none. The gates of a stage in the head see regions, and an image counts there by the
    mean of its regions.

    Args:
        options: ``data`` stands for DATA.VAL.JSON; see ``image_folder``, unless DATA.VAL.IMAGES is among the words.

    Returns:
        what is in ``gates.json``.

    Raises:
        UserError: the checkpoint has no gates, or there is no such data, or something is wrong with it.
    """
    options.check()
    model, cfg, _, _ = load_detector(options.weights, None, options.device, _words(options))
    gated_sites(model, options.weights)
    data = load_data_alone(cfg, "VAL")
    everything = data.records()
    records = list(spread(everything, options.images or len(everything)))
    if any(detached_stages(model)):  # whose gates see the regions of all images of a batch, one after the other
        cfg = _one_at_a_time(cfg)
    images = Images(
        str(data.json_path),
        len(everything),
        len(records),
        data.class_names,
        "an image counts for each class that it holds objects of",
        _batches(records, cfg, len(data.class_names)),
    )
    return look(options, model, cfg, DETECTION, images)


def _words(options: Options) -> list[str]:
    if options.data is None:
        return list(options.overrides)
    is_json = options.data.is_file() and options.data.suffix.lower() not in OTHER_FORMS
    images = [IMAGES_KEY, str(image_folder(options.data))] if is_json and IMAGES_KEY not in options.overrides else []
    return ["DATA.VAL.JSON", str(options.data), *images, *options.overrides]


def _one_at_a_time(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.IMS_PER_BATCH = 1
    cfg.freeze()
    return cfg


def _batches(records: list[dict], cfg: CfgNode, classes: int) -> Iterator[tuple[list[dict], Tensor]]:
    held = {record["image_id"]: {one["category_id"] for one in record["annotations"]} for record in records}
    for batch in test_batches(records, cfg):
        belongs = torch.zeros(len(batch), classes, dtype=torch.bool)
        for row, image in enumerate(batch):
            belongs[row, list(held[image["image_id"]])] = True
        yield batch, belongs
