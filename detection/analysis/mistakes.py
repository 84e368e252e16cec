"""A detector's worst mistakes: what it was sure of and wrong about, and what it missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from detection.analysis.confusion import Decisions
from detection.coco_ap.inputs import EvaluationInput
from detection.coco_ap.matching import IOU, Matches, by_score
from detection.coco_ap.overlaps import overlaps
from engine.report.mistakes import LISTED_EACH, Mistake

# The kinds are those of TIDE (Bolya et al. 2020, arXiv 2008.08115, section 2.2), by the object that overlaps most.
NEAR = 0.1  # IoU from which a detection is about an object, TIDE's background threshold
DUPLICATE, CLASS, PLACE, BOTH, NOTHING, MISSED = (
    "found twice", "wrong class", "wrong place", "wrong class and place", "nothing there", "missed",
)  # fmt: skip
RULE = (
    "Wrong detections from their class's threshold on, under the class that was predicted, the surest first; and "
    "objects that no detection from the thresholds on found at IoU 0.50, of whatever class, under their own, the "
    "largest first: two of the first, then one of the others, and so on. The kind is by the object that overlaps most: "
    "from IoU 0.50 on 'found twice' or 'wrong class', from 0.10 on 'wrong place' or 'wrong class and place', else "
    "'nothing there'. Boxes are x, y, width, height in pixels."
)


def find_mistakes(
    given: EvaluationInput, matches: Matches, decisions: Decisions, names: Sequence[str]
) -> tuple[dict[str, list[Mistake]], dict[str, int]]:
    """The mistakes by ``RULE``.

    Args:
        names: (K,) of the classes.

    Returns:
        class → the worst, ``LISTED_EACH`` of each sort at most; and class → how many there are in all.
    """
    wrong = np.flatnonzero(decisions.kept & (matches.found < 0))
    missed = np.flatnonzero(matches.to_find & (decisions.finder < 0))
    missed = missed[np.argsort(-given.ground_truth.area[missed], kind="stable")]
    wrong, objects = by_score(given, wrong), _objects_of(given, matches)
    worst, counts = {}, {}
    for category, name in enumerate(names):
        own = wrong[given.detections.category[wrong] == category]
        lost = missed[given.ground_truth.category[missed] == category]
        counts[name] = len(own) + len(lost)
        first = [_wrong(given, row, objects, names) for row in own[:LISTED_EACH].tolist()]
        second = [_missed(given, row, names) for row in lost[:LISTED_EACH].tolist()]
        worst[name] = _in_turn(first, second)
    return worst, counts


def _in_turn(first: list[Mistake], second: list[Mistake]) -> list[Mistake]:
    """Two of the first, one of the second, and so on until both are at their end."""
    return [
        mistake
        for turn in range(max((len(first) + 1) // 2, len(second)))
        for mistake in (*first[2 * turn : 2 * turn + 2], *second[turn : turn + 1])
    ]


def _objects_of(given: EvaluationInput, matches: Matches) -> dict[int, list[int]]:
    """Index of an image → the rows of the objects that are to be found in it."""
    found: dict[int, list[int]] = {}
    for row in np.flatnonzero(matches.to_find).tolist():
        found.setdefault(int(given.ground_truth.image[row]), []).append(row)
    return found


def _wrong(given: EvaluationInput, row: int, objects: Mapping[int, list[int]], names: Sequence[str]) -> Mistake:
    found = given.detections
    name, there = names[found.category[row]], objects.get(int(found.image[row]), [])
    iou = overlaps(given, row, there)
    # Of equal overlaps an object of its own class is what it is about.
    own = given.ground_truth.category[there] == found.category[row]
    best = int(np.lexsort((own, iou))[-1]) if len(iou) else None
    if best is None or iou[best] < NEAR:
        kind, best = NOTHING, None
    elif iou[best] >= IOU:
        kind = DUPLICATE if own[best] else CLASS
    else:
        kind = PLACE if own[best] else BOTH
    truth = None if best is None else there[best]
    return Mistake(
        group=name,
        kind=kind,
        **_image(given, int(found.image[row])),
        predicted=name,
        score=float(found.score[row]),
        truth=None if truth is None else names[given.ground_truth.category[truth]],
        details={
            "box": found.box[row].tolist(),
            "truth_box": None if truth is None else given.ground_truth.box[truth].tolist(),
            "iou": None if best is None else round(float(iou[best]), 4),
        },
    )


def _missed(given: EvaluationInput, row: int, names: Sequence[str]) -> Mistake:
    objects = given.ground_truth
    name = names[objects.category[row]]
    details = {"box": None, "truth_box": objects.box[row].tolist(), "iou": None}
    image = _image(given, int(objects.image[row]))
    return Mistake(group=name, kind=MISSED, **image, predicted=None, score=None, truth=name, details=details)


def _image(given: EvaluationInput, index: int) -> dict:
    return {"image_id": given.image_ids[index], "file": given.image_files[index]}
