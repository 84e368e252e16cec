"""The ResNets: their sizes, their maps, and what must not change their results."""

import math

import pytest
import torch
from torch import nn

from se_backbones import SEConfig, create_backbone, find_spec, list_backbones
from tests.se_backbones.networks import change_rows, distinct_rows, shallow

RESNETS = [name for name in list_backbones() if find_spec(name).family == "resnet"]
FEATURES = ["stem", "res2", "res3", "res4", "res5"]
MILLIONS = {
    "resnet50": 25.557,
    "resnet101": 44.549,
    "resnet152": 60.193,
    "se_resnet50": 28.088,
    "se_resnet101": 49.327,
    "se_resnet152": 66.822,
    "se_resnext50_32x4d": 27.560,
    "se_resnext101_32x4d": 48.955,
    "resnext101_32x8d": 88.791,
    "resnext101_64x4d": 83.455,
    "se_resnext101_32x8d": 93.569,
    "se_resnext101_64x4d": 88.233,
    "senet154": 115.089,
}
# The smallest network with each kind of unit and stem: what a test asks of all kinds, in reasonable time.
KINDS = [
    "resnet18",
    "se_resnet18",
    "se_resnet18_caffe",
    "resnet50",
    "se_resnet50_caffe",
    "se_resnext50_32x4d",
]


@pytest.fixture
def shallow_rows(monkeypatch):
    change_rows(monkeypatch, shallow)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def on_meta(name, **overrides):
    with torch.device("meta"):
        return create_backbone(name, **overrides)


def randomise(model, seed=0):
    """Weights, statistics and gates away from their first values, where every mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


@pytest.mark.parametrize("name", MILLIONS)
def test_parameter_counts(name):
    assert round(parameters(on_meta(name)) / 1e6, 3) == MILLIONS[name]


@pytest.mark.parametrize("reduction, paper", [(2, 45.7), (4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9)])
def test_reduction_ratios_cost_what_the_paper_says(reduction, paper):
    # Table 10 rounds up: 45.699, 35.636, 30.604, 28.088 and 26.830 million.
    count = parameters(on_meta("se_resnet50", se=SEConfig(reduction=reduction)))
    assert math.ceil(count / 1e5) / 10 == paper


@pytest.mark.parametrize("name", [name for name in RESNETS if name.endswith(("_caffe", "_msra"))])
def test_the_original_variants_have_the_same_parameters(name):
    base = name.removesuffix("_caffe").removesuffix("_msra")
    shapes = [{k: v.shape for k, v in on_meta(n).state_dict().items()} for n in (name, base)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", [name for name in distinct_rows() if name in RESNETS])
@pytest.mark.parametrize("height, width", [(224, 224), (97, 131), (65, 50)])
def test_stage_shapes_are_the_announced_ones_at_any_size(name, height, width, shallow_rows):
    model = on_meta(name, num_classes=0)
    features = model.forward_features(torch.empty(2, 3, height, width, device="meta"))
    assert list(features) == FEATURES
    for stage, info in model.feature_info.items():
        h, w = features[stage].shape[2:]
        assert features[stage].shape[:2] == (2, info.channels)
        if find_spec(name).hyper.ceil_pool:  # un-padded: one less where the padded pool would reach over the edge
            assert abs(h - math.ceil(height / info.stride)) <= 1 and abs(w - math.ceil(width / info.stride)) <= 1
        else:
            assert (h, w) == (math.ceil(height / info.stride), math.ceil(width / info.stride))
    assert [info.stride for info in model.feature_info.values()] == [4, 4, 8, 16, 32]


def test_the_original_pool_equals_the_padded_ones_size_where_detectors_pad_to_multiples_of_32():
    for size in (32, 96, 224, 800):
        a = on_meta("se_resnet50", num_classes=0).forward_features(torch.empty(2, 3, size, size, device="meta"))
        b = on_meta("se_resnet50_caffe", num_classes=0).forward_features(torch.empty(2, 3, size, size, device="meta"))
        assert [v.shape for v in a.values()] == [v.shape for v in b.values()]


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity", "inside"])
@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet50"])
def test_plain_equals_se_with_its_gates_forced_to_one(name, placement, shallow_rows):
    torch.manual_seed(0)
    se = randomise(create_backbone(name, 5, se=SEConfig(placement=placement, gate="relu", init="neutral"))).eval()
    plain = create_backbone(name, 5, se=None).eval()
    weights = {k: v for k, v in se.state_dict().items() if ".se." not in k}
    plain.load_state_dict(weights)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(se.forward_features(x).values(), plain.forward_features(x).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity", "inside"])
def test_each_placement_gates_what_its_figure_shows(placement):
    """One unit against figure 5 of the paper, written out."""
    torch.manual_seed(0)
    model = randomise(create_backbone("se_resnet18", 0, se=SEConfig(placement=placement), out_features=["res3"])).eval()
    unit = model.layer2[0]
    assert unit.downsample is not None
    x = torch.randn(2, 64, 9, 9)
    with torch.no_grad():
        shortcut = unit.downsample(x)
        if placement == "standard":
            b = unit.branch(x)
            expected = torch.relu(shortcut + b * unit.se(b))
        elif placement == "pre":
            expected = torch.relu(shortcut + unit.branch(x * unit.se(x)))
        elif placement == "inside":  # the paper's SE_3x3, here behind the first of two 3×3
            y = torch.relu(unit.bn1(unit.conv1(x)))
            expected = torch.relu(shortcut + unit.bn2(unit.conv2(y * unit.se(y))))
        elif placement == "post":
            y = torch.relu(shortcut + unit.branch(x))
            expected = y * unit.se(y)
        else:
            expected = torch.relu(unit.branch(x) + shortcut * unit.se(shortcut))
        torch.testing.assert_close(unit(x), expected)


def test_se_3x3_gates_the_map_behind_the_3x3_of_a_bottleneck():
    """SE_3x3 of the paper's table 15, written out, and its parameters."""
    torch.manual_seed(0)
    config = SEConfig(placement="inside")
    model = randomise(create_backbone("se_resnet50", 0, se=config, out_features=["res2"])).eval()
    unit = model.layer1[1]
    x = torch.randn(2, 256, 9, 9)
    with torch.no_grad():
        y = torch.relu(unit.bn2(unit.conv2(torch.relu(unit.bn1(unit.conv1(x))))))
        expected = torch.relu(x + unit.bn3(unit.conv3(y * unit.se(y))))
        torch.testing.assert_close(unit(x), expected)
    assert parameters(on_meta("se_resnet50", se=SEConfig(placement="inside", bias=False))) == 25_714_216
    assert parameters(on_meta("se_resnet50", se=config)) == 25_718_228


def test_no_squeeze_gates_each_place_by_itself():
    """NoSqueeze of the paper's table 16: the two layers at full size, no pooling."""
    torch.manual_seed(0)
    model = randomise(create_backbone("se_resnet18", 0, se=SEConfig(squeeze="none"), out_features=["res2"])).eval()
    unit = model.layer1[0]
    x = torch.randn(2, 64, 9, 9)
    with torch.no_grad():
        branch = unit.branch(x)
        gate = unit.se(branch)
        assert gate.shape == branch.shape
        torch.testing.assert_close(gate[:, :, 2:3, 5:6], unit.se(branch[:, :, 2:3, 5:6]))
        torch.testing.assert_close(unit(x), torch.relu(x + gate * branch))


def test_only_the_named_stages_carry_se():
    model = on_meta("se_resnet50", se=SEConfig(stages=(3, 5), reduction=(2, 4, 8, 16)))
    gated = {name.split(".")[0] for name, _ in model.named_parameters() if ".se." in name}
    assert gated == {"layer2", "layer4"}
    assert model.layer2[0].se.fc1.out_channels == 512 // 4 and model.layer4[0].se.fc1.out_channels == 2048 // 16


@pytest.mark.parametrize("name", KINDS)
def test_channels_last_changes_the_format_and_not_the_result(name, shallow_rows):
    torch.manual_seed(0)
    model = randomise(create_backbone(name, 5)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_features(x)
        model = model.to(memory_format=torch.channels_last)
        features = model.forward_features(x.to(memory_format=torch.channels_last))
    for stage in features:
        assert features[stage].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(features[stage], expected[stage], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "se_resnet18_caffe"])
def test_compiled_learns_as_eager(name, shallow_rows):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = randomise(create_backbone(name, 5)).eval()
    # aot_eager traces and rewrites as any backend does, and needs no C++ compiler; fullgraph: no break anywhere.
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 33, 33)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    grads = []
    for network in (model, compiled):
        model.zero_grad()
        network(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN", "GN"])
@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet50"])
def test_any_norm_layer(name, norm, shallow_rows):
    model = create_backbone(name, 3, norm=norm)
    model(torch.randn(2, 3, 33, 33)).sum().backward()
    kinds = {type(m).__name__ for n, m in model.named_modules() if n.split(".")[-1].startswith("bn")}
    assert kinds == {
        {"BN": "BatchNorm2d", "FrozenBN": "FrozenBatchNorm2d", "SyncBN": "SyncBatchNorm", "GN": "GroupNorm"}[norm]
    }


def test_a_frozen_norm_equals_batch_norm_in_eval_mode_and_takes_its_weights():
    torch.manual_seed(0)
    live = randomise(create_backbone("se_resnet18", 5)).eval()
    frozen = create_backbone("se_resnet18", 5, norm="FrozenBN")
    frozen.load_state_dict(live.state_dict())  # num_batches_tracked of the live ones has no place and is dropped
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(frozen.train()(x), live(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_stages_stay_as_they_are(freeze_at, shallow_rows):
    torch.manual_seed(0)
    model = create_backbone("se_resnet18", 5, freeze_at=freeze_at).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    changed = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    leading = [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]
    assert changed == set().union({"fc"}, *leading[freeze_at:])


@pytest.mark.parametrize("name", KINDS)
def test_recomputing_gives_the_same_gradients_and_statistics(name, shallow_rows):
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = create_backbone(name, 5, recompute=recompute).train()
        model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        results.append(({n: p.grad for n, p in model.named_parameters()}, dict(model.named_buffers())))
    for ours, theirs in zip(*results, strict=True):
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-6)


def test_stages_behind_the_last_output_are_not_built():
    model = create_backbone("se_resnet50", num_classes=0, out_features=["res3", "res4"])
    assert not hasattr(model, "layer4")
    assert list(model.forward_features(torch.randn(1, 3, 64, 64))) == ["res3", "res4"]
    with pytest.raises(ValueError, match="forward_features"):
        model(torch.randn(1, 3, 64, 64))


def test_a_dilated_res5_keeps_stride_16():
    model = on_meta("se_resnet50", num_classes=0, last_dilation=2)
    res5 = model.forward_features(torch.empty(1, 3, 96, 128, device="meta"))["res5"]
    assert model.feature_info["res5"] == (2048, 16) and res5.shape == (1, 2048, 6, 8)


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"name": "se_resnet5"}, "se_resnet50"),
        ({"name": "zzz"}, "list_backbones"),
        ({"name": "resnet50", "out_features": ["res6"]}, "out_features"),
        ({"name": "resnet50", "out_features": ["res4"]}, "res5"),
        ({"name": "resnet50", "freeze_at": 6}, "freeze_at"),
        ({"name": "resnet50", "norm": "bn"}, "FrozenBN"),
        ({"name": "resnet50", "last_dilation": 4}, "last_dilation"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_allowed(arguments, word):
    with pytest.raises(ValueError, match=word):
        create_backbone(**arguments)
