"""Wrong inputs of every kind, through the functions that the command lines call."""

from __future__ import annotations

from pathlib import Path

from soak.archives import prepare_archives
from soak.class_lists import prepare_class_lists
from soak.coco import prepare_coco
from soak.pictures import prepare_pictures
from soak.pool import Outcome, Trial

_SHARES = (0, 0, 1, 2, 2, 3)  # of six trials, how many are of each kind


def prepare_inputs(folder: Path) -> Trial:
    """Trials of COCO files, of class lists and folders, of pictures, and of archives."""
    kinds = (
        ("coco", prepare_coco),
        ("classes", prepare_class_lists),
        ("pictures", prepare_pictures),
        ("archives", prepare_archives),
    )
    trials = [prepare(folder / name) for name, prepare in kinds]

    def trial(seed: int, place: Path) -> Outcome:
        return trials[_SHARES[seed % len(_SHARES)]](seed, place)

    return trial
