"""What Places365 adds to classification: its lists and folders, indoor and outdoor, published figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from classification.groups import ClassGroups
from classification.index.split import Split
from classification.task import CLASS_FOLDERS, ClassificationTask
from classification.task_info import classification_info
from places365.categories import indoor_flags
from places365.layout import find_root, find_split
from places365.nested_folders import nesting
from places365.published import published_beside

logger = logging.getLogger(__name__)

INDOOR, OUTDOOR = "indoor", "outdoor"


def indoor_outdoor(classes: Sequence[str]) -> ClassGroups:
    """Indoor and outdoor, for class names in any spelling; a class that is none of Places365's belongs to neither."""
    groups = {True: 0, False: 1, None: -1}
    return ClassGroups("indoor_outdoor", (INDOOR, OUTDOOR), tuple(groups[flag] for flag in indoor_flags(classes)))


def _find_split(root: str, split: str, images: str) -> Split:
    found = find_split(find_root(root), split, images)
    if told := nesting(found):
        logger.warning("%s: %s", found.source, told)
    return found


def _record(groups: Mapping[str, float]) -> dict:
    """{"indoor": true, false, or null where the classes do not tell, "indoor_probability": 0..1 or null}."""
    share = groups.get(INDOOR)
    return {
        "indoor": None if share is None else share >= groups[OUTDOOR],
        "indoor_probability": None if share is None else round(share, 6),
    }


_INFO = classification_info(
    name="places365",
    title="Scene classification",
    accuracy="Scene accuracy",
    predictions_file="scene_predictions.json",
    train_command="tools/train_places365.py",
    predict_command="tools/predict_scene.py",
    packages=("classification", "places365"),
    labels={"indoor_outdoor": "indoor or outdoor"},
    meanings={"indoor_outdoor": "indoor or outdoor told right"},
)

PLACES365_TASK = ClassificationTask(_INFO, _find_split, indoor_outdoor, published_beside, _record)
CLASSIFICATION_TASKS = {task.info.name: task for task in (CLASS_FOLDERS, PLACES365_TASK)}
