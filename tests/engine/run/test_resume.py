"""What a run may be gone on with, and what is said where its position means something else."""

import logging
import re
from types import SimpleNamespace

import pytest

from classification.config import load_config
from classification.model import build_network
from classification.task import CLASS_FOLDERS
from engine.errors import UserError
from engine.run import resume as module
from engine.run.experiment import description
from engine.run.resume import IMAGES, check_resume
from engine.run.start import Start
from engine.train.fingerprint import fingerprint

TASK = CLASS_FOLDERS.info
BASE = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar", "SOLVER.IMS_PER_BATCH", "4"]
CLASSES = ["a", "b"]
SET = fingerprint(24, [b"the names and labels"])


def config(*overrides):
    return load_config(None, [*BASE, *map(str, overrides)])


def resume(tmp_path, now=(), steps=12, images=SET, classes=CLASSES, **changed):
    """Resumes a run of six steps with the config ``now``."""
    then, now = config(), config(*now)
    model = build_network(then, len(CLASSES))
    about = {**description(TASK, then, CLASSES), IMAGES: SET}
    content = {"format": "se-backbones-checkpoint/1", **about, "iteration": 6, "model": model.state_dict()}
    start = Start(tmp_path / "run", TASK, {**content, **changed})
    about = {**description(TASK, now, classes), IMAGES: images}
    check_resume(start, build_network(now, len(classes)), TASK, then, now, steps, about, "the set")


def processes(monkeypatch, count):
    monkeypatch.setattr(module, "comm", SimpleNamespace(get_world_size=lambda: count))


def test_the_same_settings_go_on(tmp_path, caplog):
    resume(tmp_path)
    resume(tmp_path, steps=6)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("batch", [2, 8])
def test_another_batch_size_is_refused_and_its_ways_on_are_named(tmp_path, batch):
    words = "6 steps of 4 images each, 24 images.*SOLVER.IMS_PER_BATCH 4.*ACCUMULATE.*MODEL.WEIGHTS .*0000006.pth"
    with pytest.raises(UserError, match=words):
        resume(tmp_path, ["SOLVER.IMS_PER_BATCH", batch])


def test_accumulation_leaves_the_position_where_it_is(tmp_path, caplog):
    resume(tmp_path, ["SOLVER.ACCUMULATE", 2])
    assert "SOLVER.ACCUMULATE: 1 -> 2" in caplog.text and "images" not in caplog.text


@pytest.mark.parametrize("then, now", [(1, 2), (4, 1)])
def test_another_number_of_processes_goes_on_and_what_differs_is_said(tmp_path, caplog, monkeypatch, then, now):
    processes(monkeypatch, now)
    with caplog.at_level(logging.INFO):
        resume(tmp_path, processes=then)
    words = f"processes: {then} before, {now} now. The .* same order, {4 // now} a .* {4 // then} before.*BatchNorm"
    assert re.search(words, caplog.text)
    caplog.clear()
    resume(tmp_path)  # of a version that did not write how many they were
    resume(tmp_path, processes=now)
    assert "processes" not in caplog.text


def test_processes_that_cannot_share_its_batch_are_refused(tmp_path, monkeypatch):
    processes(monkeypatch, 3)
    with pytest.raises(UserError, match="4 images, which 3 processes cannot share.*Go on with .*: 1, 2, 4$"):
        resume(tmp_path, processes=2)


@pytest.mark.parametrize(
    "images, words",
    [
        (fingerprint(96, [b"more"]), "24 then, 96 now.*24, which were 1 epochs .* are 0.25 of"),
        (fingerprint(12, [b"fewer"]), "24 then, 12 now.*are 2 of"),
        (fingerprint(24, [b"other labels"]), "24 as before, with other names or labels"),
    ],
)
def test_other_images_are_told_with_what_the_position_means(tmp_path, caplog, images, words):
    resume(tmp_path, images=images)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.search(words, record.getMessage())


def test_a_checkpoint_that_does_not_know_its_images_goes_on(tmp_path, caplog):
    resume(tmp_path, images=fingerprint(96, [b"more"]), **{IMAGES: None})
    assert "images" not in caplog.text


def test_nothing_left_to_train_is_no_success(tmp_path):
    with pytest.raises(UserError, match="has made 6 steps, .* ask for 5: nothing is left.*SOLVER.EPOCHS"):
        resume(tmp_path, steps=5)


@pytest.mark.parametrize(
    "now, classes, words",
    [
        (["MODEL.SE.GATE", "relu"], CLASSES, "SE gate 'sigmoid'"),
        (["INPUT.FORMAT", "BGR"], CLASSES, "want images as RGB"),
        (["MODEL.BACKBONE.ARCHITECTURE", "resnet20_cifar"], CLASSES, "does not fit the config"),
        ([], ["b", "a"], "another order"),
        ([], ["a", "b", "c"], "only in the second: c"),
    ],
)
def test_another_network_preprocessing_or_other_classes_are_refused(tmp_path, now, classes, words):
    with pytest.raises(UserError, match=words):
        resume(tmp_path, now, classes=classes)


def test_a_run_of_another_task_is_refused(tmp_path):
    with pytest.raises(UserError, match="is one of places365, not classification"):
        resume(tmp_path, task="places365")
