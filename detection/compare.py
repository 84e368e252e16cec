"""Detectors' answers on the same images, for a comparison of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from detection.coco_ap.bootstrap import MatchedDetections, paired_bootstrap
from detection.config import load_config
from detection.data import DetectionData, make_data
from detection.locate import read_split
from detection.predict.detections import Detections
from detection.predict.draw import draw_detections
from detection.predict.pictures import as_detections
from detection.task_info import DETECTION
from engine import compat  # noqa: F401  (before detectron2)
from engine.compare.answers import Answers, PairTest, Panel
from engine.errors import UserError
from engine.images.reading import UnreadableImage, read_image
from engine.json_files import read_json
from engine.report.run_reader import Run

THRESHOLD = 0.5  # the lowest score of a detection that is drawn and counted


class DetectorAnswers(Answers):
    """The detections of a run's last evaluation, boxes.

    Raises:
        UserError: its predictions, its config or its ground truth are missing or damaged.
    """

    def __init__(self, run: Run):
        self.cfg = load_config(run.folder / "config.yaml")
        self.data = _ground_truth(self.cfg)
        predictions = run.folder / DETECTION.predictions_file
        self.matched = MatchedDetections(self.data.coco, predictions)
        self.main = self.matched.ap()
        self._name_of = {image["id"]: image["file_name"] for image in self.data.coco["images"]}
        self._records = {self._name_of[record["image_id"]]: record for record in self.data.records()}
        self.images = [self._name_of[one] for one in self.matched.image_ids]
        self._found: dict[str, list[dict]] = {}
        for result in read_json(predictions, "a run's predictions"):
            if result["score"] >= THRESHOLD:
                self._found.setdefault(self._name_of[result["image_id"]], []).append(result)

    def unlike(self, other: DetectorAnswers) -> str:
        same = self._fingerprint == other._fingerprint
        return "" if same else "it was evaluated on other images, or on other annotations of them"

    @cached_property
    def _fingerprint(self) -> dict:
        return self.data.fingerprint()

    def test(self, other: DetectorAnswers) -> PairTest:
        told = paired_bootstrap([self.matched], [other.matched])
        low, high = told.interval
        words = f"{{second}} less {{first}} is {low:+.2f} to {high:+.2f} points in 95 % of draws of other images"
        return PairTest(told.p, f"{words} (paired bootstrap)")

    @cached_property
    def counts(self) -> np.ndarray:
        """(I, 3) of each image: right and wrong detections, and objects that were not found."""
        return self.matched.counts(THRESHOLD)

    def differing(self, others: Sequence[DetectorAnswers]) -> list[str]:
        """By the share of what there is to find and what was found that is right, F1, from the best run to the
        worst."""
        shares = np.stack([_f1(one.counts) for one in (self, *others)])
        apart = shares.max(axis=0) - shares.min(axis=0)
        order = np.argsort(-apart, kind="stable")
        return [self.images[place] for place in order if apart[place] > 0]

    def truth(self, image: str) -> Panel:
        objects = [a for a in self._records[image]["annotations"] if not a["iscrowd"]]
        found = as_detections(objects, [a["category_id"] for a in objects], with_scores=False)
        return Panel(f"truth: {len(objects)} objects", picture=self._drawn(image, found))

    def said(self, image: str) -> Panel:
        results = self._found.get(image, [])
        found = as_detections(results, [self._index_of[r["category_id"]] for r in results])
        right, wrong, missed = self.counts[self.images.index(image)].tolist()
        words = f"{right} right, {wrong} wrong, {missed} not found (score {THRESHOLD}, IoU 0.5)"
        return Panel(words, picture=self._drawn(image, found))

    @cached_property
    def _index_of(self) -> dict:
        return {category: index for index, category in enumerate(self.data.category_ids)}

    def _drawn(self, image: str, found: Detections) -> np.ndarray:
        try:
            pixels = read_image(self._records[image]["file_name"], self.cfg.INPUT.MAX_PIXELS)
        except UnreadableImage as error:
            raise UserError(str(error)) from error
        return draw_detections(pixels, found, self.data.class_names)


def _f1(counts: np.ndarray) -> np.ndarray:
    """(I,) 2 right / (2 right + wrong + missed); 1 where there is nothing to find and nothing was found."""
    right, wrong, missed = counts.T
    total = 2 * right + wrong + missed
    return np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)


def _ground_truth(cfg) -> DetectionData:
    name, found = read_split(cfg, "VAL")
    return make_data(name, found.path, found.images, found.coco, with_masks=False)
