"""convert_file: every name and shape is a network's, or is told."""

import pytest
import torch

from se_backbones import SEConfig
from se_backbones.weights import (
    WeightsError,
    convert_file,
    read_state_dict,
)
from tests.se_backbones.weights.test_convert import same_bytes

pytest.importorskip("safetensors")


def renamed(state, *pairs):
    for old, new in pairs:
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


@pytest.fixture(scope="module")
def gated(filled):
    return dict(filled("se_resnet18", 1, num_classes=3).half().state_dict())


STRAYS = {
    "se_module": (lambda s: renamed(s, (".se.fc", ".se_module.fc")), "no part of it.*shapes of excitation layers"),
    "conv_reduce": (
        lambda s: renamed(s, (".se.fc1", ".se.conv_reduce"), (".se.fc2", ".se.conv_expand")),
        "conv_reduce.*shapes of excitation layers",
    ),
    "linear": (
        lambda s: {
            name.replace(".se.fc", ".attention."): t.flatten(1) if ".se." in name and t.dim() == 4 else t
            for name, t in s.items()
        },
        "shapes of excitation layers",
    ),
    "four channels": (
        lambda s: s | {"conv1.weight": torch.zeros(64, 4, 7, 7)},
        r"\[64, 4, 7, 7\] in the file, \[64, 3",
    ),
    "another head": (lambda s: renamed(s, ("fc.weight", "head.weight")), "head.weight"),
    "stray": (lambda s: s | {"ema_queue": torch.zeros(3)}, r"no part of it \(1\): ema_queue"),
    "stray in a unit": (lambda s: s | {"layer1.0.conv9.weight": torch.zeros(3)}, "inside the units"),
    "missing": (
        lambda s: {n: t for n, t in s.items() if n != "layer2.1.bn2.weight"},
        r"missing \(1\): layer2.1.bn2.weight",
    ),
    "half a gate": (lambda s: {n: t for n, t in s.items() if n != "layer1.0.se.fc2.weight"}, "layer1.0.se.fc2.weight"),
    "wrong gate": (lambda s: s | {"layer1.0.se.fc2.weight": torch.zeros(64, 5, 1, 1)}, "another shape"),
    "wide gate": (lambda s: s | {"layer1.0.se.fc1.weight": torch.zeros(4, 99, 1, 1)}, "another shape"),
    "counter of nothing": (lambda s: s | {"extra.num_batches_tracked": torch.zeros(1)}, "extra.num_batches_tracked"),
    "whole numbers": (
        lambda s: s | {"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.int8)},
        r"conv1.weight \(int8\)",
    ),
    "bias": (lambda s: s | {"layer1.0.conv1.bias": torch.zeros(64)}, "layer1.0.conv1.bias"),
}


@pytest.mark.parametrize("stray", STRAYS)
def test_names_and_shapes_that_are_none_of_the_networks(stray, gated, tmp_path):
    change, message = STRAYS[stray]
    torch.save(change(gated), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"(?s){message}"):
        convert_file(tmp_path / "w.pth", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_strays_are_left_out_by_name(gated, tmp_path):
    torch.save(gated | {"ema_queue": torch.zeros(3), "aux.weight": torch.zeros(2)}, tmp_path / "w.pth")
    done = convert_file(tmp_path / "w.pth", tmp_path / "o.safetensors", leave_out=["ema_queue", "aux.*"])
    assert "left out: ema_queue, aux.weight" in str(done)
    assert same_bytes(read_state_dict(done.out).state_dict, gated)
    with pytest.raises(WeightsError, match="missing.*conv1.weight"):  # a part of the network cannot be
        convert_file(tmp_path / "w.pth", tmp_path / "p.safetensors", leave_out=["ema_queue", "aux.*", "conv1.weight"])


def test_parts_of_a_network_convert(filled, tmp_path):
    """Whole stages may be absent, and the classifier; and gates may stand anywhere in any width."""
    from se_backbones import create_backbone

    with torch.device("meta"):
        networks = [
            create_backbone("resnet18", num_classes=0),
            create_backbone("se_resnet18", se=SEConfig(reduction=(8, 4, 2, 1), without=("layer4.1",), bias=False)),
            create_backbone("se_resnet50", se=SEConfig(placement="inside", stages=(3, 4))),
            create_backbone("vgg16", num_classes=0),
            create_backbone("se_mobilenet_v1", num_classes=7),
            create_backbone("resnet18", norm="GN"),
        ]
    for network in networks:
        state = {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in network.state_dict().items()}
        torch.save(
            {"format": "se-backbones-checkpoint/1", "model": state, "backbone": network.spec.name}, tmp_path / "w.pth"
        )
        done = convert_file(tmp_path / "w.pth", tmp_path / "o.safetensors", force=True)
        assert done.architecture == network.spec.name and done.tensors == len(state)
