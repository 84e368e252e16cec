"""The guesses that an evaluation wrote down, image by image."""

from __future__ import annotations

import os
from dataclasses import dataclass

from engine.errors import UserError
from engine.json_files import read_json


@dataclass(frozen=True)
class GuessesOfImage:
    """What a classifier said of one image.

    Attributes:
        label: the true class.
        top: (class, probability 0..1), the five likeliest first; empty where the image could not be read.
    """

    label: str
    top: tuple[tuple[str, float], ...]

    @property
    def first(self) -> str | None:
        """The likeliest class; None where the image could not be read."""
        return self.top[0][0] if self.top else None

    @property
    def right(self) -> bool:
        """Whether that is the true one; an image that could not be read is wrong."""
        return self.first == self.label

    @property
    def of_truth(self) -> float:
        """The probability of the true class, 0..1; 0 where it is none of the five likeliest."""
        return dict(self.top).get(self.label, 0.0)


def read_guesses(path: str | os.PathLike) -> dict[str, GuessesOfImage]:
    """The file that ``evaluate.write_predictions`` writes: an image's name → what was said of it, in its order.

    Raises:
        UserError: it is missing, or no such file.
    """
    records = read_json(path, "a run's predictions")
    try:
        return {
            record["file"]: GuessesOfImage(record["label"], tuple((name, share) for name, share in record["top"]))
            for record in records
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not hold an evaluation's predictions ({type(error).__name__}: {error}); evaluate again"
        ) from None
