"""Groups of classes: a coarser question that a classifier answers too, such as whether a scene is indoors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassGroups:
    """Groups that some or all of K classes belong to.

    Attributes:
        figure: what their accuracy is called among an evaluation's figures.
        names: of the G groups.
        group_of_class: (K,) the index of each class's group; -1 where it belongs to none.
    """

    figure: str
    names: tuple[str, ...]
    group_of_class: tuple[int, ...]

    @property
    def told_apart(self) -> bool:
        """Whether each group has a class: with one missing, there is nothing to tell it from."""
        return set(range(len(self.names))) <= set(self.group_of_class)

    def probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """How likely each image is of each group: the probability of the group's classes, as a share of that of all
        classes that belong to one.

        Args:
            probabilities: (N, K), 0..1.

        Returns:
            (N, G) 0..1, a row's sum 1, and all alike where no such class has any probability; NaN throughout where the
            groups are not ``told_apart``.
        """
        count = len(self.names)
        if not self.told_apart:
            return np.full((len(probabilities), count), np.nan)
        of_class = np.array(self.group_of_class)
        sums = np.stack([probabilities[:, of_class == group].sum(axis=1) for group in range(count)], axis=1)
        total = sums.sum(axis=1, keepdims=True)
        return np.divide(sums, total, out=np.full_like(sums, 1 / count), where=total > 0)
