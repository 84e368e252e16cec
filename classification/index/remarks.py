"""What a person ought to know of a split before training on it, or believing its figures."""

from __future__ import annotations

import numpy as np

from classification.index.class_folders import shortened
from classification.index.index import ImageIndex
from engine.names import look_alike, printable
from engine.predict.image_files import describe_passed_over, perhaps_pictures


def remarks(index: ImageIndex, training: bool) -> list[str]:
    """Sentences, none where all is well: files that were passed over and may be pictures, classes without images, one
    class alone, classes whose names look alike; for training also classes with one image.

    Args:
        training: whether the split is trained on, rather than evaluated.
    """
    found = []
    if perhaps_pictures(index.passed_over):
        found.append(
            f"passed over, as they are not read as pictures here: {describe_passed_over(index.passed_over)}"
            + (f"; that is more than the {len(index):,} images taken" if mostly_passed_over(index) else "")
        )
    counts = images_by_class(index)
    if len(counts) == 1:
        found.append(f"one class alone, {printable(index.classes[0])}: whatever a network says is right")
    elif np.count_nonzero(counts) == 1:
        found.append(f"all images are of one class, {printable(index.classes[int(counts.argmax())])}")
    elif counts.any() and (without := _names(index, counts == 0)):
        why = "nothing of them can be learnt" if training else "they have no share in the figures"
        found.append(f"classes without images ({why}): {without}")
    if training and (alone := _names(index, counts == 1)):
        found.append(f"classes with one image alone: {alone}")
    if alike := look_alike(index.classes):
        found.append(f"classes with nearly the same name: {alike}")
    return found


def images_by_class(index: ImageIndex) -> np.ndarray:
    """(K,) int64: how many images each class has."""
    labelled = index.labels[index.labels >= 0]
    return np.bincount(labelled, minlength=len(index.classes))


def mostly_passed_over(index: ImageIndex) -> bool:
    """Whether more files were passed over that may be pictures than images were taken."""
    return perhaps_pictures(index.passed_over) > len(index)


def _names(index: ImageIndex, chosen: np.ndarray) -> str:
    return shortened([index.classes[int(label)] for label in np.flatnonzero(chosen)])
