"""The task of a checkpoint or a run, for the commands that take any."""

import pytest

from classification.task import CLASS_FOLDERS
from detection.task_info import DETECTION
from engine.errors import UserError
from engine.train.checkpoint import save_checkpoint
from places365.task import PLACES365_TASK
from studies.lab.by_task import by_task, by_task_of


def classifier(task):
    return "classifier", task


def detector():
    return "detector"


@pytest.mark.parametrize("task", [CLASS_FOLDERS, PLACES365_TASK], ids=lambda task: task.info.name)
def test_each_kind_of_classification_is_handed_on(task):
    assert by_task(task.info.name, "x", detector, classifier) == ("classifier", task)


def test_a_detector_is_one():
    assert by_task(DETECTION.name, "x", detector, classifier) == "detector"


@pytest.mark.parametrize("name", ["segmentation", None, ["detection"]])
def test_other_tasks_are_refused_with_those_that_there_are(tmp_path, name):
    path = save_checkpoint(tmp_path / "model.pth", {"task": name})
    words = "model.pth is of the task .*none of detection, classification, places365"
    with pytest.raises(UserError, match=words):
        by_task_of(path, detector, classifier)
