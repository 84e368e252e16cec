"""Figures that others published for the official validation split of Places365."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from places365.categories import PLACES365, class_index

VAL_IMAGES, VAL_IMAGES_A_CLASS = 36_500, 100

SE_PAPER = "Hu et al., Squeeze-and-Excitation Networks, arXiv 1709.01507, table of Places365"
PLACES_README = "github.com/CSAILVision/places365, README; Zhou et al., Places, TPAMI 2018"


@dataclass(frozen=True)
class PublishedFigures:
    """A published result: errors in percent on the validation split, the crops of each image that were averaged, the
    training set, and where it stands."""

    model: str
    top1_error: float
    top5_error: float
    crops: int
    trained_on: str
    source: str


PUBLISHED = (
    PublishedFigures("Places-365-CNN", 41.07, 11.48, 1, "Places365-Challenge", SE_PAPER),
    PublishedFigures("ResNet-152", 41.15, 11.61, 1, "Places365-Challenge", SE_PAPER),
    PublishedFigures("SE-ResNet-152", 40.37, 11.01, 1, "Places365-Challenge", SE_PAPER),
    # Published as accuracies, 54.74 and 85.08.
    PublishedFigures("ResNet-152", 45.26, 14.92, 10, "Places365-Standard", PLACES_README),
)


def is_official_val(classes: Sequence[str], labels: np.ndarray) -> bool:
    """Whether a set is Places365's official validation split, as far as classes and labels tell: the 365 classes in
    the official order, 36,500 images, 100 of each class.

    Args:
        classes: names in the order of the class indices, in any spelling that ``categories.class_index`` knows.
        labels: (N,) integers.
    """
    if len(labels) != VAL_IMAGES or [class_index(name) for name in classes] != list(range(len(PLACES365))):
        return False
    labels = np.asarray(labels)
    return bool(labels.min() >= 0 and (np.bincount(labels, minlength=len(classes)) == VAL_IMAGES_A_CLASS).all())


def published_beside(classes: Sequence[str], labels: np.ndarray) -> list[dict]:
    """The published figures to show beside those of a set: as ``PublishedFigures``, with the accuracies ``top1`` and
    ``top5``; none unless the set is the official validation split, since no other can be compared."""
    if not is_official_val(classes, labels):
        return []
    return [
        {**asdict(row), "top1": round(100 - row.top1_error, 2), "top5": round(100 - row.top5_error, 2)}
        for row in PUBLISHED
    ]
