"""``features_only``: maps as a list, described as timm describes its own."""

import pytest
import torch

from se_backbones import create_backbone, features_only
from se_backbones.registry import find_spec, skeleton
from tests.se_backbones.networks import images, randomised

NAME = "se_resnet20_cifar"


def meta(name, *args, **kwargs):
    with torch.device("meta"):
        return features_only(name, *args, **kwargs)


@pytest.mark.parametrize(("ours", "theirs"), [("se_resnet50", "seresnet50"), ("resnet34", "resnet34")])
@pytest.mark.parametrize("indices", [(1, 2, 3, 4), (2, 4), 2, (-3, -1)])
def test_resnets_are_described_as_timms_are(ours, theirs, indices):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        peer = timm.create_model(theirs, features_only=True, out_indices=indices).feature_info
    info = meta(ours, indices).feature_info
    assert info.channels() == peer.channels() and info.reduction() == peer.reduction()
    assert info.module_name() == peer.module_name() and len(info) == len(peer)
    assert [info[i]["num_chs"] for i in range(5)] == [peer[i]["num_chs"] for i in range(5)]


@pytest.mark.parametrize("name", ["se_mobilenet_v1", "se_vgg16", "senet154", "se_wrn16_8_cifar"])
def test_entries_are_asked_for_as_timms(name):
    features = pytest.importorskip("timm.models._features")
    info = meta(name, (0, 2)).feature_info
    peer = features.FeatureInfo([dict(entry) for entry in info.info], (0, 2))
    for idx in (None, 1, -1, [1], (0, 1, 2)):
        for method in ("channels", "reduction", "module_name", "get_dicts"):
            args = (["num_chs", "index"], idx) if method == "get_dicts" else (idx,)
            assert getattr(info, method)(*args) == getattr(peer, method)(*args)
    assert info.get_dicts() == peer.get_dicts() and info.out_indices == peer.out_indices


def test_maps_are_those_of_the_network_in_the_order_asked_for():
    network = randomised(create_backbone(NAME)).eval()
    x = images(32, 48)
    with torch.no_grad():
        maps = network.forward_features(x)
        listed = features_only(network, (3, -3))(x)
        assert [torch.equal(a, b) for a, b in zip(listed, (maps["stage3"], maps["stage1"]), strict=True)] == [True] * 2
        assert len(features_only(network)(x)) == 4
    info = features_only(network, (3, -3)).feature_info
    assert info.out_indices == (3, 1)
    for fmap, channels, stride in zip(listed, info.channels(), info.reduction(), strict=True):
        assert fmap.shape == (2, channels, 32 // stride, 48 // stride)


def test_what_is_not_wanted_is_not_built():
    features = meta("se_resnet50", (0, 2), last_dilation=1)
    assert features.network.stages == ("stem", "res2", "res3") and features.network.num_classes == 0
    assert len(features.feature_info) == 5  # as in timm, all that the network could have
    assert meta("resnet50", last_dilation=2).feature_info.reduction() == [4, 4, 8, 16, 16]


def test_weights_come_as_for_any_network(tmp_path):
    network = randomised(create_backbone(NAME))
    torch.save(network.state_dict(), tmp_path / "trained.pth")
    features = features_only(NAME, 1, pretrained=tmp_path / "trained.pth")
    assert set(features.network.weights_report.allowed) == {"fc.weight", "fc.bias"}
    theirs = network.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in features.network.state_dict().items())


@pytest.mark.parametrize("indices", [(5,), (0, 4, 9), 0, 6, (1, 1), (1, -4), (1.5,), ("res2",)])
def test_no_such_stage(indices):
    if indices == (1, -4):
        assert skeleton(find_spec("resnet50")).stages[-4] == "res2"
    with pytest.raises(ValueError, match="different numbers of the stages 0 stem, 1 res2, .* 4 res5; got"):
        meta("resnet50", indices)


def test_a_network_that_is_built_is_taken_as_it_is():
    network = create_backbone(NAME, 0, out_features=["stage1", "stage2"])
    assert features_only(network).feature_info.out_indices == (1, 2)
    with pytest.raises(ValueError, match="hands out stage1, stage2, and not stage3"):
        features_only(network, (1, 3))
    for settings in ({"num_classes": 0}, {"out_features": ["stage1"]}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))}: there is no classifier here, and out_indices"):
            features_only(NAME, **settings)
    with pytest.raises(ValueError, match="norm: settings are for a network by name"):
        features_only(network, norm="GN")
