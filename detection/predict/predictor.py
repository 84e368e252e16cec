"""A trained detector applied to pictures in memory."""

from pathlib import Path

import numpy as np
import torch

from detection.exported import ExportedDetector, load_exported_detector
from detection.fused import detector_for_inference
from detection.images import padded_size, test_input
from detection.predict.detections import Detections
from detection.thresholds import KEY, USUAL, Thresholds, parse_threshold
from detection.trained import load_detector
from engine.device import autocast, choose_precision, device_of
from engine.export.formats import check_config, check_precision, format_of
from engine.train.checkpoint import load_checkpoint

__all__ = ["Detections", "Predictor"]

ABOVE = 1e-6  # more than the distance of two scores in float32


class Predictor:
    """Finds objects in pictures of any size.

    classes: the class names; category_ids: the data set's own ids in the same order, or None if unknown;
    threshold: the lowest score that counts, 0..1, or each class's own (``Thresholds``), then `lowest_scores`, (K,);
    max_pixels: that a picture file may have (INPUT.MAX_PIXELS). The network is fused (``se_backbones.fuse``).
    """

    def __init__(self, model, cfg, classes, category_ids=None, threshold=USUAL, precision="fp32"):
        thresholds = threshold if isinstance(threshold, Thresholds) else Thresholds(threshold)
        self.cfg, self.lowest_scores, self.device = cfg, thresholds.each(list(classes)), device_of(model)
        if isinstance(model, ExportedDetector):
            check_precision(precision, model.session.facts)
            self.model, self.dtype = model, torch.float32
        else:
            self.dtype = choose_precision(precision, self.device)
            self.model = detector_for_inference(model, self.dtype)
        self.classes, self.max_pixels = list(classes), cfg.INPUT.MAX_PIXELS
        self.category_ids = list(category_ids) if category_ids else None

    @classmethod
    def from_checkpoint(cls, weights, config=None, device="auto", threshold=USUAL, precision="fp32"):
        """Load a detector from a run's checkpoint, which holds its config too; `config` names a YAML file to
        use instead. Or from what ``tools/export.py`` made of one, which has its config and its precision in it.
        device: auto, cpu or cuda. threshold: a score, "best" (what the file states of each class) or the path of a
        thresholds.json. precision: auto, fp32, bf16 or fp16. Raises UserError if the file or the device cannot be
        used."""
        if format_of(weights) is not None:
            check_config(config, weights)
            return cls(*load_exported_detector(weights, device, threshold), precision=precision)
        thresholds = parse_threshold(threshold, lambda: load_checkpoint(Path(weights)).get(KEY), weights)
        # The detector's own threshold, 0.05 by default, comes before its limit of objects an image: with ours
        # in its place the results are the same or, for a lower threshold, complete.
        # It keeps what is above it, and we what is not below ours.
        score = str(max(thresholds.lowest() - ABOVE, 0.0))
        overrides = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", score, "MODEL.RETINANET.SCORE_THRESH_TEST", score)
        return cls(*load_detector(weights, config, device, overrides), thresholds, precision)

    @torch.inference_mode()
    def predict(self, images):
        """Detect in a list of pictures, each (H, W, 3) RGB uint8; returns one `Detections` a picture, in the
        pixels of that picture, surest first.

        Pictures are computed together only where that changes nothing: a batch is padded to its largest
        picture, and padding reaches into the features at the border, so only pictures of one padded size
        share a batch.
        """
        inputs = [self._prepare(image) for image in images]
        groups = {}
        for index, entry in enumerate(inputs):
            groups.setdefault(self._padded_size(entry["image"].shape[1:]), []).append(index)
        results = [None] * len(inputs)
        for members in groups.values():
            with autocast(self.device, self.dtype):
                outputs = self.model([inputs[index] for index in members])
            for index, output in zip(members, outputs, strict=True):
                results[index] = self._detections(output["instances"])
        return results

    def _prepare(self, image):
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected a picture (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
        return test_input(image, self.cfg)

    def _padded_size(self, size):
        backbone = getattr(self.model, "backbone", None)
        step = max(int(getattr(backbone, "size_divisibility", 0) or 0), 1)
        return padded_size(size, step)

    def _detections(self, instances):
        instances = instances.to("cpu")
        found = Detections(
            boxes=instances.pred_boxes.tensor.float().numpy(),
            scores=instances.scores.float().numpy(),
            classes=instances.pred_classes.numpy(),
            masks=instances.pred_masks.numpy() if instances.has("pred_masks") else None,
        )
        order = np.argsort(-found.scores, kind="stable")
        return found.select(order[found.scores[order] >= self.lowest_scores[found.classes[order]]])
