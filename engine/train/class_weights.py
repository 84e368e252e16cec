"""SOLVER.CLASS_WEIGHTS: what each class counts in the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.errors import UserError


def class_weights(
    given: Sequence, labels: np.ndarray, classes: Sequence[str], factors: np.ndarray | None = None
) -> Tensor | None:
    """What an image, or an object, of each class counts in the loss, divided by what one of an epoch counts on the
    average, so that a learning rate means the same with weights as without. (PyTorch's own weighted mean divides by the
    batch's.)

    Args:
        given: SOLVER.CLASS_WEIGHTS: a number a class, or ["balanced"] for w(c) = (1 / n(c)) / mean of 1 / n, where
            n(c) is the number of images of class c; 0 for a class without images.
        labels: (N,) of the training images, or objects.
        classes: their names, in order.
        factors: how often each is in an epoch; None for once.

    Returns:
        (K,) float32; None where nothing is given.

    Raises:
        UserError: the weights are not as many as the classes, or 0 for every class that there is; there is none.
    """
    if not given:
        return None
    if not len(labels):
        raise UserError("SOLVER.CLASS_WEIGHTS: the training set has no object of any class to weigh")
    counts = np.bincount(labels, minlength=len(classes)).astype(np.float64)
    if list(given) == ["balanced"]:
        inverse = np.divide(1, counts, out=np.zeros_like(counts), where=counts > 0)
        weights = inverse / inverse[counts > 0].mean()
    else:
        weights = np.array(given, dtype=np.float64)
    if len(weights) != len(classes):
        names = ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
        raise UserError(
            f"SOLVER.CLASS_WEIGHTS has {len(weights)} numbers, and there are {len(classes)} classes, in this order: "
            f"{names}"
        )
    average = np.average(weights[labels], weights=factors)
    if average <= 0:
        raise UserError(
            "SOLVER.CLASS_WEIGHTS is 0 for every class of the training set: there would be nothing to learn"
        )
    return torch.from_numpy(weights / average).float()
