"""A classifier pruned, written, trained on and from scratch, by the ordinary trainer."""

import copy
import json

import pytest
import torch

from classification.slim import open_classifier
from classification.task import CLASS_FOLDERS
from engine.errors import UserError
from engine.slim.prune import describe, prune_and_train, pruned
from engine.train.checkpoint import load_checkpoint
from tests.classification.test_slim import checkpoint, data, save  # noqa: F401

pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.usefixtures("runs_in_this_process", "rough_figures")
INSIDE = ("MODEL.SE.PLACEMENT", "inside")


def test_it_is_cut_written_and_trained_on(save, tmp_path):  # noqa: F811
    subject = open_classifier(save(*INSIDE), CLASS_FOLDERS, "cpu")
    whole = copy.deepcopy(subject.network.state_dict())
    output = tmp_path / "small.pth"
    words = ("SOLVER.MAX_ITER", "2", "INPUT.MIXUP", "0.0")
    report = prune_and_train(subject, output, 0.5, "gate", 6, 0, words, from_scratch=True, rounds=2)
    assert json.loads(output.with_suffix(".json").read_text()) == report
    again = open_classifier(output, CLASS_FOLDERS, "cpu")
    assert again.network.spec.widths == subject.network.spec.widths
    assert ("stage1.unit1.conv1", 8, 16) in again.network.spec.widths
    assert all(torch.equal(tensor, whole[name]) for name, tensor in subject.whole.state_dict().items() if name in whole)
    assert again.evaluate().figures == report["after"]["figures"]
    costs = report["costs"]
    assert 0.45 < costs["after"]["multiply_adds"] / costs["before"]["multiply_adds"] < 0.55
    for folder, key in (("small", "fine_tuned"), ("small_from_scratch", "from_scratch")):
        trained = open_classifier(tmp_path / folder / "model_final.pth", CLASS_FOLDERS, "cpu")
        assert trained.network.spec.widths == again.network.spec.widths
        assert trained.evaluate().figures == report[key]["figures"]
    text = describe(report, "top-1")
    assert "168 of 336 inner channels cut by gate" in text and "fine-tuned: top-1" in text
    assert "the same widths from random weights: top-1" in text


def test_every_importance_has_what_it_needs(save):  # noqa: F811
    weights = save(*INSIDE)
    widths = set()
    for importance in ("gate", "gate_bn", "bn", "l1", "taylor", "random"):
        subject = open_classifier(weights, CLASS_FOLDERS, "cpu")
        told = pruned(subject, ratio=0.7, importance=importance, images=6)
        assert told["importance"] == importance
        widths.add(subject.network.spec.widths)
    assert len(widths) == 1


def test_what_cannot_be_pruned_so_is_refused_and_nothing_is_written(checkpoint, tmp_path):  # noqa: F811
    output = tmp_path / "small.pth"
    for arguments, message in (
        ((0.5, "gate"), "MODEL.SE.PLACEMENT inside"),
        ((2.0, "bn"), "ratio must be above 0"),
        ((0.5, "bn", 6, 0, None, True), "--from-scratch trains with the words of --fine-tune"),
    ):
        with pytest.raises(UserError, match=message):
            prune_and_train(open_classifier(checkpoint, CLASS_FOLDERS, "cpu"), output, *arguments)
    assert not list(tmp_path.iterdir()) and load_checkpoint(checkpoint)
