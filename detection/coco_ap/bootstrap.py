"""What a difference of AP between two detectors is worth on other images of the same kind: the paired bootstrap."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from detection.coco_ap.matching import match_images
from detection.coco_ap.reading import read_input

RECALLS = np.linspace(0.0, 1.0, 101)
RESAMPLES = 1000
FOR_A_STANDARD_ERROR = 200  # Efron and Tibshirani, section 6.4: more change it little


@dataclass(frozen=True)
class _Category:
    """One category's detections, by falling score.

    Attributes:
        image: (D,) the image of each.
        score: (D,) how sure each is.
        right, wrong: (10, D), at each IoU threshold; neither where a detection plays no part.
        objects: (I,) how many there are to find in each image.
    """

    image: np.ndarray
    score: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


class MatchedDetections:
    """One detector's detections, matched to the ground truth once, as pycocotools matches them: an image's matches do
    not depend on the other images, so that AP on any choice of images is a sum over them.

    Args:
        ground_truth, detections: as for ``evaluate_coco``, boxes.

    Raises:
        UserError: as ``evaluate_coco``.

    Attributes:
        images, image_ids: how many images, I, and their ids, rising.
    """

    def __init__(self, ground_truth: str | os.PathLike | dict, detections: str | os.PathLike | Sequence[dict]):
        given = read_input(ground_truth, detections)
        self.image_ids = list(given.image_ids)
        self.images = len(self.image_ids)
        self.categories: list[_Category] = []
        if self.images:
            self.categories = [_category(images) for images in match_images(given)]

    def ap(self, weights: np.ndarray | None = None) -> float | None:
        """AP at IoU 0.50:0.95 in percent, where each image is there as often as its weight says.

        Args:
            weights: (I,) whole numbers from 0, the images by rising id; None: each once, which gives COCO's own figure.

        Returns:
            None where there is nothing to find.
        """
        weights = np.ones(self.images, np.int64) if weights is None else weights
        found = [_precision(category, weights) for category in self.categories]
        found = [value for value in found if value is not None]
        return 100 * float(np.mean(found)) if found else None

    def counts(self, threshold: float) -> np.ndarray:
        """What is right and wrong of each image at IoU 0.50, of detections with at least that score.

        A match depends on surer detections alone, so that the threshold changes none of those above it.

        Returns:
            (I, 3) int64, the images by rising id: right and wrong detections, and objects that were not found.
        """
        found = np.zeros((self.images, 3), np.int64)
        for category in self.categories:
            sure = category.score >= threshold
            for column, flags in enumerate((category.right[0], category.wrong[0])):
                np.add.at(found[:, column], category.image[flags & sure], 1)
            found[:, 2] += category.objects
        found[:, 2] -= found[:, 0]
        return found


def _category(images: Sequence[dict | None]) -> _Category:
    """From pycocotools' record of each image; None where an image has neither objects nor detections."""
    there = [(number, record) for number, record in enumerate(images) if record is not None]
    objects = np.zeros(len(images), np.int64)
    for number, record in there:
        objects[number] = np.count_nonzero(np.logical_not(record["gtIgnore"]))
    if not there:
        return _Category(np.empty(0, np.int64), np.empty(0), *np.empty((2, 10, 0), bool), objects)
    image = np.repeat([number for number, _ in there], [len(record["dtScores"]) for _, record in there])
    score = np.concatenate([record["dtScores"] for _, record in there])
    order = np.argsort(-score, kind="mergesort")
    matched, ignored = (
        np.concatenate([record[key] for _, record in there], axis=1)[:, order].astype(bool)
        for key in ("dtMatches", "dtIgnore")
    )
    return _Category(image[order], score[order], matched & ~ignored, ~matched & ~ignored, objects)


def _precision(category: _Category, weights: np.ndarray) -> float | None:
    """The mean over IoU thresholds of the precision at 101 recalls, interpolated as in pycocotools' ``accumulate``."""
    objects = weights @ category.objects
    if objects == 0:
        return None
    often = weights[category.image]
    right, wrong = (np.cumsum(flags * often, axis=1) for flags in (category.right, category.wrong))
    precision = right / np.maximum(right + wrong, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for recall, curve in zip(right / objects, precision, strict=True):
        places = np.searchsorted(recall, RECALLS, side="left")
        total += curve[places[places < len(curve)]].sum() / len(RECALLS)
    return total / len(right)


def _resampled(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of so many images comes when as many are drawn with replacement, again and again: (I,) each."""
    random = np.random.default_rng(seed)
    for _ in tqdm(range(resamples), desc="resampling images", leave=False, disable=None):
        yield random.multinomial(images, np.full(images, 1 / images))


def standard_error(matched: MatchedDetections, resamples: int = FOR_A_STANDARD_ERROR, seed: int = 0) -> float:
    """How far a detector's AP would stray on other images, in points: the standard deviation over images drawn with
    replacement, as many as there are (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 6.2).

    Args:
        seed: of the draws.

    Raises:
        ValueError: there is nothing to find.
    """
    if matched.ap() is None:
        raise ValueError("there is no object to find, and so no AP")
    found = (matched.ap(weights) for weights in _resampled(matched.images, resamples, seed))
    found = [value for value in found if value is not None]  # a draw without any object says nothing
    return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


@dataclass(frozen=True)
class APDifference:
    """The second detector's AP minus the first's, in points.

    Attributes:
        interval: within which 95 % of the resamples' differences lie.
        p: two-sided, from 2 / (resamples + 1) to 1.
    """

    interval: tuple[float, float]
    p: float


def paired_bootstrap(
    first: Sequence[MatchedDetections],
    second: Sequence[MatchedDetections],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> APDifference:
    """How far the difference of two detectors' AP would stray on other images.

    As many images as there are are drawn with replacement, the same ones for both, and the difference is taken on
    these; so many times. The interval is the percentile interval (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, section 13.3); p is twice the share of differences of the rarer sign, an undecided one counted for
    it, with one added to both counts so that it is never 0 (Davison and Hinkley, Bootstrap Methods and their
    Application, 1997, section 4.2).

    Args:
        first, second: of each training seed, on the same images; AP is the mean over them.
        seed: of the draws.

    Raises:
        ValueError: the sides were not evaluated on equally many images, or there is nothing to find.
    """
    counts = {matched.images for matched in (*first, *second)}
    if len(counts) != 1 or any(matched.ap() is None for matched in (*first, *second)):
        raise ValueError(f"a pair needs the same images, with objects in them; got {sorted(counts)} images")
    differences = []
    for weights in _resampled(counts.pop(), resamples, seed):
        sides = [[matched.ap(weights) for matched in side] for side in (first, second)]
        if None not in (*sides[0], *sides[1]):  # a draw without any object says nothing
            differences.append(np.mean(sides[1]) - np.mean(sides[0]))
    differences = np.array(differences)
    rarer = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    low, high = np.quantile(differences, (0.025, 0.975))
    return APDifference((float(low), float(high)), min(2 * (rarer + 1) / (len(differences) + 1), 1.0))
