"""The pictures that an exported file is compared on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError
from engine.predict.media import pictures_below
from engine.train.sampling import spread


def pictures_in(given: Sequence[Path], most: int) -> list[Path]:
    """Files as they are; of each folder its pictures, ``most`` at most, spread over it.

    Raises:
        UserError: a folder has no pictures. (A file that is not there is said where it is read.)
    """
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = pictures_below(path)
        if not inside:
            raise UserError(f"--images {path}: there are no pictures in it")
        found += spread(inside, most)
    return found
