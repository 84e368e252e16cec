"""A checkpoint made smaller through the real command line."""

import json

import pytest
import torch

from classification.config import load_config
from classification.model import build_network
from engine.run.experiment import description
from engine.train.checkpoint import load_checkpoint, save_checkpoint
from places365.task import PLACES365_TASK
from tests.se_backbones.networks import randomised

CLASSES = ("bedroom", "coast", "street")


@pytest.fixture(scope="module")
def weights(tmp_path_factory, write_scenes):
    folder = tmp_path_factory.mktemp("slim")
    data = write_scenes(folder / "scenes", {"train": 3, "val": 4}, CLASSES)
    words = [
        "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar", "INPUT.TEST_RESIZE", "36",
        "INPUT.TEST_SIZE", "32", "INPUT.TRAIN_SIZE", "32", "DATALOADER.NUM_WORKERS", "0", "DATA.ROOT", str(data),
        "DATA.CACHE", str(folder / "cache"),
    ]  # fmt: skip
    cfg = load_config(None, words)
    network = randomised(build_network(cfg, 3))
    with torch.no_grad():
        for path in ("stage3.unit2", "stage3.unit3"):  # which then hardly move
            network.get_submodule(path).se.fc2.weight.mul_(1e-4)
    about = {**description(PLACES365_TASK.info, cfg, CLASSES), "iteration": 1, "model": network.state_dict()}
    return save_checkpoint(folder / "model_final.pth", about)


def test_constant_gates_go_first_and_everything_is_said(run, weights):
    said = run("tools/slim.py", "drop", "--weights", weights, "--rounds", "2", "--device", "cpu", "TEST.FUSE", "False")
    output = weights.with_name("model_final_dropped.pth")
    report = json.loads(output.with_suffix(".json").read_text())
    deviations = {gate["name"]: gate["deviation"] for gate in report["gates"]}
    steps = [step["gate"] for step in report["steps"]]
    assert {"stage3.unit2", "stage3.unit3"} < set(steps[:3])  # another one's bottleneck of one channel is off
    assert [deviations[gate] for gate in steps] == sorted(deviations.values())[: len(steps)]
    dropped = sum(step["dropped"] for step in report["steps"])
    assert f"done: {output}" in said and f"{dropped} of 9 gates dropped" in said
    for word in ("parameters", "multiply-adds", "ms an image", "top-1 accuracy", "before", "after"):
        assert word in said
    assert load_checkpoint(output)["task"] == "places365"
    assert report["allowed_fall"] == report["before"]["standard_error"]
    names = {path.name for path in weights.parent.glob("*_dropped*")}
    assert names == {f"model_final_dropped.{end}" for end in ("pth", "yaml", "json", "png")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["squash"], "invalid choice"),
        (["drop"], "--weights"),
        (["drop", "--weights", "WEIGHTS", "--rounds", "1"], "--rounds 2 or more"),
        (["drop", "--weights", "WEIGHTS", "--fall", "-1"], "0 or more; got -1"),
        (["drop", "--weights", "nowhere.pth"], "no checkpoint at nowhere.pth"),
        (["drop", "--weights", "WEIGHTS", "--output", "WEIGHTS"], "name another file"),
        (["drop", "--weights", "WEIGHTS", "--data", "nowhere"], "nowhere"),
        (["drop", "--weights", "WEIGHTS", "DATA.VAL", ""], "DATA.VAL is empty"),
    ],
)
def test_wrong_words_are_answered_in_one_line_and_nothing_is_left(run, weights, words, message):
    before = sorted(weights.parent.iterdir())
    given = [str(weights) if word == "WEIGHTS" else word for word in words]
    said = run("tools/slim.py", *given, code=2)
    assert message in said and "Traceback" not in said
    assert sorted(weights.parent.iterdir()) == before
