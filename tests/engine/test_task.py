"""The engine knows no task: what it is told of one is enough, and it names none."""

import dataclasses
import re
from pathlib import Path

import pytest

import engine
from classification.task import CLASS_FOLDERS
from detection.task_info import DETECTION
from engine.task import ConfigFacts, TaskInfo
from places365.task import PLACES365_TASK

TASKS = (DETECTION, CLASS_FOLDERS.info, PLACES365_TASK.info)
FILES = sorted(path for path in Path(engine.__file__).parent.rglob("*") if path.suffix in (".py", ".j2"))


def words(task):
    """What a file would have to contain to know the task."""
    commands = [Path(command).name for command in (task.train_command, task.predict_command)]
    figures = [*task.figures, *task.main_figures, *task.figure_labels, *task.figure_meanings]
    return {task.name, task.title, *task.packages, *figures, task.predictions_file, *task.listings, *commands}


def names_in(text):
    text = text.replace('".[detection]"', "")  # what pip calls the packages that Detectron2 needs
    wanted = set().union(*map(words, TASKS))
    return sorted(word for word in wanted if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(path.parents[2]).as_posix())
def test_no_file_of_the_engine_names_a_task(path):
    assert not names_in(path.read_text(encoding="utf-8"))


def test_a_name_would_be_found():
    assert names_in('if task == "detection":') == ["detection"]
    assert names_in('rows["bbox/AP50"], Places365, tools/predict.py') == ["AP50", "bbox", "places365", "predict.py"]
    assert names_in("detector, detectron2, top10, Detections") == []


def test_a_task_is_frozen_and_a_figure_without_a_label_has_its_name():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DETECTION.name = "another"
    assert (DETECTION.label("AP50"), PLACES365_TASK.info.label("top1")) == ("AP50", "top-1 accuracy")


def test_a_tasks_main_figure_is_the_first_of_its_first_group():
    assert [task.main_figure for task in TASKS] == ["bbox/AP", "classification/top1", "places365/top1"]


def test_a_task_need_not_read_its_config():
    bare = TaskInfo("toy", "Toys", (), {"toys": "Toys"}, ("found",), "found.json", "train.py", "predict.py")
    assert bare.read_config({}, {}) == ConfigFacts("", "", "", "")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("damaged", [{}, {"DATA": 3, "MODEL": [], "INPUT": "x"}, {"DATA": {"VAL": {"JSON": 3}}}])
def test_damaged_configs_are_read(task, damaged):
    facts = task.read_config(damaged, {})
    assert all(isinstance(value, str) for value in vars(facts).values())
