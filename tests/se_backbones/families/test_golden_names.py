"""Names and shapes of three networks, so that nobody renames by accident: published weights use them."""

from pathlib import Path

import pytest
import torch

from se_backbones import create_backbone

GOLDEN = Path(__file__).parent / "golden"


def names_and_shapes(name):
    with torch.device("meta"):
        state = create_backbone(name).state_dict()
    return {f"{key} {'x'.join(map(str, tensor.shape)) or 'scalar'}" for key, tensor in state.items()}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_names_are_those_of_the_golden_list(path):
    golden, now = set(path.read_text().splitlines()), names_and_shapes(path.stem)
    assert now - golden == set(), "new names: published weights do not have them"
    assert golden - now == set(), "names are gone: published weights still have them"


def test_there_are_three_lists():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == [
        "resnet50",
        "se_resnext50_32x4d",
        "senet154",
    ]
