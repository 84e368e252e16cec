"""Networks that are narrower inside than their rows: built as they say, and refused where the layers do not fit."""

import pytest
import torch

from se_backbones import SEConfig, create_backbone
from se_backbones.surgery.widths import cut_spec
from se_backbones.weights import WeightsError, load_weights
from tests.se_backbones.networks import images, randomised

UNIT = (
    ("layer1.0.conv1", 24, 64),
    ("layer1.0.bn1", 24, 24),
    ("layer1.0.conv2", 40, 24),
    ("layer1.0.bn2", 40, 40),
    ("layer1.0.conv3", 256, 40),
)


def narrower(name="se_resnet50", widths=UNIT, **overrides):
    return create_backbone(name, 5, widths=widths, **overrides)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_a_network_is_as_narrow_as_its_widths_say(norm):
    model = narrower(norm=norm, se=SEConfig(placement="inside")).eval()
    unit = model.layer1[0]
    assert (unit.conv1.weight.shape[0], unit.conv2.weight.shape[:2], unit.conv3.in_channels) == (24, (40, 24), 40)
    assert (unit.bn1.running_mean.numel(), unit.bn2.weight.numel(), unit.se.fc1.in_channels) == (24, 40, 40)
    assert unit.se.fc1.out_channels == 40 // 16 and model.layer1[1].se.fc1.out_channels == 64 // 16
    whole = create_backbone("se_resnet50", 5).forward_features(images(65, 50))
    assert {name: m.shape for name, m in model.forward_features(images(65, 50)).items()} == {
        name: m.shape for name, m in whole.items()
    }


def test_a_network_built_anew_from_its_spec_takes_its_weights():
    model = randomised(narrower(se=SEConfig(placement="inside", hidden={"layer1.0": 7}))).eval()
    assert cut_spec(model) == model.spec and model.spec.widths == tuple(sorted(UNIT))
    again = create_backbone(model.spec.name, 5, se=model.spec.se, widths=model.spec.widths).eval()
    load_weights(again, model.state_dict())
    assert torch.equal(again(images()), model(images()))
    with pytest.raises(WeightsError, match="the model is built as a pruned network"):
        load_weights(again, create_backbone("se_resnet50", 5, se=SEConfig(placement="inside")).state_dict())


def test_layers_that_were_cut_in_place_are_told():
    model = create_backbone("se_resnet50", 5, norm="FrozenBN")
    model.layer4[2].se.fc1 = torch.nn.Conv2d(2048, 100, 1)
    assert cut_spec(model).se.hidden == (("layer4.2", 100),) and cut_spec(model).widths == ()
    unit = model.layer1[0]
    unit.conv1, unit.conv2 = torch.nn.Conv2d(64, 9, 1), torch.nn.Conv2d(9, 64, 3, 1, 1)
    assert cut_spec(model).widths == (("layer1.0.conv1", 9, 64), ("layer1.0.conv2", 64, 9))


def test_stages_that_are_not_built_are_passed_over():
    model = create_backbone("resnet50", 0, out_features=("res2",), widths=(*UNIT, ("layer4.0.conv1", 512, 1024)))
    assert model.layer1[0].conv2.out_channels == 40


@pytest.mark.parametrize(
    ("name", "widths", "message"),
    [
        ("resnet50", UNIT[:1], "layer1.0.bn1 takes 64 channels, and is given 24"),
        ("resnet50", (("layer1.0.conv9", 1, 1),), "no layer layer1.0.conv9; the nearest are layer1.0.conv"),
        ("resnet50", (("layer1.0.conv1", 65, 64),), r"layer1.0.conv1 has \(64, 64\) channels, out and in; \(65, 64\)"),
        ("resnet50", (("layer1.0.conv3", 9, 64), ("layer1.0.bn3", 9, 9)), "two maps that are added"),
        ("resnet50", (("layer1.0.bn1", 9, 8),), "is a normalisation"),
        ("resnext50_32x4d", (("layer1.0.conv2", 40, 128),), "32 groups, which do not divide 40 and 128"),
        ("mobilenet_v1", (("stage3.conv0", 1),), "must be triples"),
        ("resnet50", (*UNIT, UNIT[0]), "name layer1.0.conv1 twice"),
    ],
)
def test_widths_that_cannot_be_are_refused(name, widths, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(name, 5, widths=widths)


def test_a_stage_keeps_the_channels_of_its_map():
    with pytest.raises(ValueError, match="must keep its 512 channels; got 500"):
        create_backbone("vgg16", 0, widths=(("features.40", 500, 512), ("features.41", 500, 500)))


def test_hidden_channels_of_single_gates():
    se = SEConfig(hidden=[["layer2.0", 5], ["layer1.10", 3], ["layer1.2", 4]])
    assert se.hidden == (("layer1.2", 4), ("layer1.10", 3), ("layer2.0", 5))
    model = create_backbone("se_resnet18", 5, se=SEConfig(reduction=8, hidden={"layer2.0": 5}))
    assert [unit.se.fc2.in_channels for unit in model.layer2] == [5, 128 // 8]
    for wrong in ([("layer1.0", 0)], [("layer1.0", 1), ("layer1.0", 2)], ["layer1.0"], 3):
        with pytest.raises(ValueError, match="SE hidden must be pairs"):
            SEConfig(hidden=wrong)
    with pytest.raises(ValueError, match="no unit layer1.9; layer1 has layer1.0 to layer1.1"):
        create_backbone("se_resnet18", se=SEConfig(hidden={"layer1.9": 3}))
    with pytest.raises(ValueError, match="layer1.0 carries no gate"):
        create_backbone("se_resnet18", se=SEConfig(hidden={"layer1.0": 3}, without=("layer1.0",)))
