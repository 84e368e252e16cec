"""From which score on a detector's objects count: one number, or each class's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from engine.errors import UserError
from engine.json_files import read_json

USUAL = 0.5  # where nobody says, and for a class for which nothing speaks for another
BEST = "best"
KEY = "thresholds"  # in checkpoints, and among the details of exported files


@dataclass(frozen=True)
class Thresholds:
    """The lowest scores that count, 0..1.

    Attributes:
        otherwise: for classes without one of their own.
        of_class: class name → its own.
    """

    otherwise: float = USUAL
    of_class: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self):
        for score in (self.otherwise, *self.of_class.values()):
            if not 0 <= score <= 1:
                raise UserError(f"the threshold is a score between 0 and 1; got {score}")

    def each(self, classes: Sequence[str]) -> np.ndarray:
        """(K,) float64, of each class. Raises UserError where they are of other classes."""
        if strange := set(self.of_class) - set(classes):
            raise UserError(f"the thresholds are of other classes: {', '.join(sorted(strange)[:5])}")
        return np.array([self.of_class.get(name, self.otherwise) for name in classes], np.float64)

    def lowest(self) -> float:
        """Below it nothing counts."""
        return min((self.otherwise, *self.of_class.values()))


def parse_threshold(
    given: float | str | Path | Thresholds, stated: Callable[[], object], weights: str | Path
) -> Thresholds:
    """What ``--threshold`` means.

    Args:
        given: a score; ``best``, those that come with the weights; or a ``thresholds.json`` that an evaluation wrote.
        stated: gives what ``weights`` state as their thresholds, None where they do not.

    Raises:
        UserError: none of these, or the weights state none.
    """
    if isinstance(given, Thresholds):
        return given
    try:
        return Thresholds(float(str(given)))
    except ValueError:
        pass
    if str(given) != BEST:
        return _read(read_json(given, "thresholds (--threshold takes a score, best, or such a file)"), given)
    if (content := stated()) is None:
        raise UserError(
            f"--threshold {BEST}: {weights} states no thresholds of its classes, which a training adds to "
            "model_final.pth and model_best.pth. An evaluation writes them too, as analysis/thresholds.json: "
            "--threshold FILE"
        )
    return _read(content, weights)


def _read(content: object, source: str | Path) -> Thresholds:
    """From what ``detection.analysis`` writes of the classes' thresholds."""
    try:
        classes = {name: entry["threshold"] for name, entry in content["classes"].items()}
        own = {str(name): float(score) for name, score in classes.items() if score is not None}
        otherwise = float(content["otherwise"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{source} holds no thresholds as an evaluation writes them (thresholds.json)") from None
    return Thresholds(otherwise, own)
