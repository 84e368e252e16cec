"""A budget of SE's parameters: how it is given, what the report says, and the run that trains on."""

import pytest
import torch

from classification.slim import open_classifier
from classification.task import CLASS_FOLDERS
from classification.train import run_classification
from engine.errors import UserError
from engine.json_files import read_json
from engine.run.experiment import Options
from engine.slim.ratios import choose_ratios, describe, ratios
from engine.train.checkpoint import load_checkpoint

WORDS = [
    "MODEL.SE.REDUCTION", "[4]", "INPUT.TRAIN_SIZE", "32", "INPUT.TEST_RESIZE", "32", "INPUT.TEST_SIZE", "32",
    "SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "6", "SOLVER.PRECISION", "fp32", "MODEL.DEVICE", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory, write_scenes):
    folder = tmp_path_factory.mktemp("run")
    root = write_scenes(folder / "images", {"train": 4, "val": 3}, ("bird", "cat", "cliff"))
    words = [*WORDS, "DATA.ROOT", str(root), "DATA.CACHE", str(folder / "cache"), "OUTPUT_DIR", str(folder / "run")]
    run_classification(Options("configs/studies_cifar10.yaml", words))
    return folder / "run" / "model_final.pth"


@pytest.fixture
def subject(weights):
    return open_classifier(weights, CLASS_FOLDERS, "cpu")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "one of the two"),
        ({"budget": 0.5, "reduction": 8}, "one of the two"),
        ({"budget": 0.5, "uniform": True}, "one of the two"),
        ({"budget": 1.0}, "between 0 and 1; got 1"),
        ({"budget": 0.05}, "cannot be had"),
        ({"reduction": 2, "uniform": True}, "cannot be left with 8"),
    ],
)
def test_a_budget_that_says_nothing_is_refused(subject, how, message):
    with pytest.raises(UserError, match=message):
        ratios(subject, **how)


def test_a_ratio_and_its_worth_have_as_many_parameters(weights):
    found = [
        ratios(open_classifier(weights, CLASS_FOLDERS, "cpu"), reduction=16, uniform=uniform, images=8, rounds=2)
        for uniform in (True, False)
    ]
    assert [gate["after"] for gate in found[0]["gates"]] == [1, 1, 1, 2, 2, 2, 4, 4, 4]
    assert 0 <= found[0]["parameters"] - found[1]["parameters"] < 2 * 64 + 1


def test_the_cut_network_is_written_and_trained_on(subject, tmp_path):
    output = tmp_path / "small.pth"
    report = choose_ratios(subject, output, 0.5, 8, ["SOLVER.BASE_LR", "0.01"], rounds=2)
    assert report == read_json(output.with_suffix(".json"))
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    costs, told = report["costs"], report["ratios"]
    assert costs["after"]["se_parameters"] == told["parameters"] <= 0.5 * costs["before"]["se_parameters"]
    again = open_classifier(output, CLASS_FOLDERS, "cpu")
    assert again.evaluate().figures == report["after"]["figures"]
    trained = open_classifier(report["fine_tuned_weights"], CLASS_FOLDERS, "cpu")
    assert trained.network.spec.se == again.network.spec.se == subject.network.spec.se
    assert trained.evaluate().figures == report["fine_tuned"]["figures"]
    ours = subject.network.state_dict()
    final = load_checkpoint(tmp_path / "small" / "model_final.pth")["model"]
    assert all(torch.equal(ours[name], final[name]) for name in final)
    text = describe(report, "top-1")
    assert "8,484 before" in text and "trained on: top-1" in text and "stage3.unit3" in text
