"""What the comparison of runs is told by their task: what a model said of the images that it was evaluated on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class PairTest:
    """What a difference between two models is worth on other images of the same kind.

    Attributes:
        p: two-sided, 0..1.
        words: what was counted, with "{first}" and "{second}" where the names of the runs belong.
    """

    p: float
    words: str


@dataclass
class Panel:
    """What is known, or said, of one image.

    Attributes:
        words: in a line.
        right: whether it is right; None where that is no question.
        picture: (H, W, 3) RGB uint8, or None.
        bars: (name, percent 0..100) each.
    """

    words: str
    right: bool | None = None
    picture: np.ndarray | None = None
    bars: Sequence[tuple[str, float]] = field(default_factory=list)


class Answers(ABC):
    """The answers of one run's last evaluation, image by image.

    Attributes:
        images: names of the images of the set.
        main: the task's main figure, in percent, worked out from the answers; None where there is none.
    """

    images: Sequence[str]
    main: float | None

    @abstractmethod
    def unlike(self, other: Answers) -> str:
        """Why the images of the other run, or what is true of them, are not the same; "" where they are."""

    @abstractmethod
    def test(self, other: Answers) -> PairTest:
        """This run's difference from another one on the same images."""

    @abstractmethod
    def differing(self, others: Sequence[Answers]) -> list[str]:
        """The images of which the runs do not say the same, those where they differ most first."""

    @abstractmethod
    def truth(self, image: str) -> Panel:
        """The image, and what is true of it. Raises UserError where it cannot be read."""

    @abstractmethod
    def said(self, image: str) -> Panel:
        """What this run's model says of the image. Raises UserError where a picture of it needs the image, which cannot
        be read."""
