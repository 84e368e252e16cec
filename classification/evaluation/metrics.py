"""What a classifier's predictions come to: accuracies, confusions and calibration, all in percent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from classification.groups import ClassGroups
from engine.report.confusion import confused_pairs
from engine.report.metrics import VALIDATION

GUESSES = 5  # of each image; fewer where there are fewer classes
CALIBRATION_BINS = 15  # as in Guo et al. 2017, arXiv 1706.04599


@dataclass
class Predictions:
    """The predictions for N images of K classes, a column an attribute: what the figures need, and no logits.

    Attributes:
        indices: (N,) int64, the images' positions in their index.
        labels: (N,) int64, the true classes, 0..K-1.
        top5: (N, min(5, K)) int32, the classes of highest probability, the highest first. Of equal probabilities the
            class of lower index comes first, so that the order is the same on every device. -1 for a broken image.
        top5_probabilities: (N, min(5, K)) float64, 0..1, in that order; 0 for a broken image.
        groups: (N, G) float64, see ``ClassGroups.probabilities``; NaN for a broken image. G is 0 without groups.
        losses: (N,) float64, cross-entropy: minus the logarithm of the truth's probability; NaN for a broken image.
        broken: (N,) bool, images that could not be read: they have no prediction.
    """

    indices: np.ndarray
    labels: np.ndarray
    top5: np.ndarray
    top5_probabilities: np.ndarray
    groups: np.ndarray
    losses: np.ndarray
    broken: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def confidence(self) -> np.ndarray:
        """(N,) the probability of the first guess, 0..1."""
        return self.top5_probabilities[:, 0]

    @classmethod
    def from_probabilities(
        cls,
        probabilities: np.ndarray,
        labels: Sequence[int],
        indices: Sequence[int],
        groups: ClassGroups | None = None,
        broken: Sequence[bool] | None = None,
    ) -> Predictions:
        """The predictions in a batch.

        Args:
            probabilities: (N, K), 0..1; the rows of broken images are ignored.
            labels, indices: (N,) as above.
            groups: of the K classes, if they have some.
            broken: (N,) as above; None: all images were read.

        Raises:
            ValueError: the shapes do not fit each other, or a probability is not a finite number.
        """
        probabilities = np.asarray(probabilities, dtype=np.float64)
        labels, indices = np.asarray(labels, dtype=np.int64), np.asarray(indices, dtype=np.int64)
        broken = np.zeros(len(labels), dtype=bool) if broken is None else np.asarray(broken, dtype=bool)
        if probabilities.ndim != 2 or not len(probabilities) == len(labels) == len(indices) == len(broken):
            raise ValueError(
                f"probabilities {probabilities.shape} do not fit {len(labels)} labels, {len(indices)} indices and "
                f"{len(broken)} marks"
            )
        probabilities = np.where(broken[:, None], 0.0, probabilities)
        if not np.isfinite(probabilities).all():
            raise ValueError("probabilities must be finite")
        of_groups = np.empty((len(labels), 0)) if groups is None else groups.probabilities(probabilities)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :GUESSES]  # stable: the lower index of equals
        return cls(
            indices,
            labels,
            np.where(broken[:, None], -1, order).astype(np.int32),
            np.take_along_axis(probabilities, order, axis=1),
            np.where(broken[:, None], np.nan, of_groups),
            np.where(broken, np.nan, _cross_entropy(probabilities, labels)),
            broken,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of several batches, in the order given. Raises ValueError if there are none."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def classification_figures(
    predictions: Predictions, classes: Sequence[str], name: str, groups: ClassGroups | None = None
) -> dict[str, dict | list | int]:
    """The figures of an evaluation, in percent.

    An image that could not be read counts as wrong in every accuracy; it has no confidence, and calibration leaves it
    out.

    Args:
        predictions: of a set whose images all have labels.
        classes: the K names, in the order of the class indices.
        name: of the task, which the figures stand under.
        groups: those that the predictions were made with.

    Returns:
        - under ``name``: ``top1``, ``top5`` (accuracy: the truth is the first guess, or among the first five, or all
          of fewer than five classes), ``top1_error``, ``top5_error`` (100 less those), ``mean_class_top1`` (mean of
          the classes' accuracies, over classes with images), where there are groups the figure that is called as
          ``groups.figure`` says (accuracy of the likeliest group, the first of equals, over images whose class belongs
          to one), ``ece`` (``expected_calibration_error``); None where there is no image to take a figure from;
        - ``per_category``: ``{name: {class: top-1 accuracy, None without images}}``;
        - ``confused_pairs``: see ``engine.report.confusion.confused_pairs``;
        - ``validation``: ``{"total_loss": …}``, the mean cross-entropy over the images that were read, in nats, without
          label smoothing and mixing; None without such images;
        - ``images``, ``broken``: how many, and how many of them could not be read.

    Raises:
        ValueError: a label that is no class.
    """
    counts = confusion_counts(predictions, len(classes))
    of_class, right = counts.sum(axis=1), counts.diagonal()
    per_class = [_percent(r, n) for r, n in zip(right, of_class, strict=True)]
    known = [value for value in per_class if value is not None]
    top1 = _percent(right.sum(), of_class.sum())
    in_top5 = (predictions.top5 == predictions.labels[:, None]).any(axis=1)
    top5 = _percent(in_top5.sum(), len(predictions))
    read = ~predictions.broken
    first_right = predictions.top5[:, 0] == predictions.labels
    return {
        name: {
            "top1": top1,
            "top5": top5,
            "top1_error": None if top1 is None else 100.0 - top1,
            "top5_error": None if top5 is None else 100.0 - top5,
            "mean_class_top1": sum(known) / len(known) if known else None,
            **({} if groups is None else {groups.figure: _group_accuracy(predictions, groups)}),
            "ece": expected_calibration_error(predictions.confidence[read], first_right[read]),
        },
        "per_category": {name: dict(zip(classes, per_class, strict=True))},
        "confused_pairs": confused_pairs(counts, classes),
        VALIDATION: {"total_loss": float(predictions.losses[read].mean()) if read.any() else None},
        "images": len(predictions),
        "broken": int(predictions.broken.sum()),
    }


def confusion_counts(predictions: Predictions, num_classes: int) -> np.ndarray:
    """How often each class (row) was taken for each class (column).

    Returns:
        (K, K + 1) int64; the last column counts images without a prediction, so that a row's sum is the class's
        number of images.

    Raises:
        ValueError: a label that is no class.
    """
    labels = predictions.labels
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels must be 0..{num_classes - 1}; they are {labels.min()}..{labels.max()}")
    width = num_classes + 1
    predicted = np.where(predictions.broken, num_classes, predictions.top5[:, 0])
    return np.bincount(labels * width + predicted, minlength=num_classes * width).reshape(num_classes, width)


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = CALIBRATION_BINS
) -> float | None:
    """By how much confidence and accuracy differ, in percent (Guo et al. 2017, arXiv 1706.04599, equation 3).

    The images fall into bins of equal width by confidence, bin m holding ((m - 1) / bins, m / bins]; the absolute
    difference of a bin's accuracy and its mean confidence is weighted with its share of the images. torchmetrics
    closes its bins below instead, which differs for confidences on a boundary alone, 1 among them (it gets a bin of
    its own there).

    Args:
        confidence: (N,) probability of the first guess, 0..1.
        correct: (N,) bool, whether it was right.

    Returns:
        0..100; None for no images.
    """
    if not len(confidence):
        return None
    inner_edges = np.arange(1, bins) / bins
    bin_of = np.searchsorted(inner_edges, confidence, side="left")
    gap = np.bincount(bin_of, correct, bins) - np.bincount(bin_of, confidence, bins)  # sums: the weights cancel
    return 100.0 * float(np.abs(gap).sum()) / len(confidence)


def _cross_entropy(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) of (N, K) and (N,); of a probability of 0 that of the smallest number above it, and NaN for no class."""
    known = (labels >= 0) & (labels < probabilities.shape[1])
    losses = np.full(len(labels), np.nan)
    of_truth = probabilities[known, labels[known]]
    losses[known] = -np.log(np.maximum(of_truth, np.finfo(np.float64).tiny))
    return losses


def _group_accuracy(predictions: Predictions, groups: ClassGroups) -> float | None:
    if not groups.told_apart:
        return None
    truth = np.array(groups.group_of_class)[predictions.labels]
    known = truth >= 0
    right = known & ~predictions.broken & (predictions.groups.argmax(axis=1) == truth)
    return _percent(right.sum(), known.sum())


def _percent(part: int, whole: int) -> float | None:
    return 100.0 * float(part) / float(whole) if whole else None
