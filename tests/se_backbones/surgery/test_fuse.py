"""A fused network computes what the network computes: every family, every placement, both ways of computing."""

import copy
import pickle
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import fx, nn
from torch.autograd import forward_ad

from se_backbones import SEConfig, create_backbone, find_network, find_spec, fuse, insert_se, list_backbones
from se_backbones.surgery import fused_layers as layers
from se_backbones.surgery import fused_operations as operations
from se_backbones.surgery.fused_layers import FusedConv2d, GatedSum
from tests.se_backbones.networks import change_rows, images, randomised, shallow
from tests.se_backbones.surgery.fused import difference, network, outputs

# Of each family one with SE and one without, the smallest that has all of its parts.
FAMILIES = (
    "resnet18", "se_resnet18", "resnet50", "se_resnet50", "se_resnext50_32x4d", "se_resnet50_caffe", "vgg16",
    "se_vgg16", "bn_inception", "se_bn_inception", "inception_resnet_v2", "se_inception_resnet_v2", "mobilenet_v1",
    "se_mobilenet_v1", "se_shufflenet_v1_g3", "resnet20_cifar", "se_resnet20_cifar", "se_preresnet164_cifar",
    "se_shakeshake26_2x32d_cifar",
)  # fmt: skip
PLACEMENTS = ("standard", "pre", "post", "identity", "inside")


@pytest.fixture(autouse=True)
def shallow_rows(monkeypatch):
    """As wide as they are: how a layer is computed depends on that, and not on how many there are."""
    change_rows(monkeypatch, shallow)


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setattr(layers, "has_onednn", lambda x: False)


def test_one_of_each_family_is_here():
    assert {find_spec(name).family for name in FAMILIES} == {find_spec(name).family for name in list_backbones()}


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_every_family_gives_the_same_maps_and_logits(name):
    model = network(name)
    side = 33 if "cifar" in name else 77
    for count, size in ((1, (side, side + 9)), (3, (side + 1, side))):
        if "shuffle" in name or "cifar" in name:
            size = (side - side % 32 + 32,) * 2
        x = images(*size, count=count)
        assert difference(outputs(fuse(model), x), outputs(model, x)) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_in_double_precision_nothing_is_left_but_rounding(name):
    model = network(name, torch.float64)
    x = images(96, 96, count=2).double()
    assert difference(outputs(fuse(model), x), outputs(model, x)) < 1e-11


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet50"])
@torch.no_grad()
def test_every_placement(name, placement, count):
    model = network(name, se=SEConfig(placement=placement))
    x = images(75, 101, count=count)
    assert difference(outputs(fuse(model), x), outputs(model, x)) < 1e-5


@pytest.mark.parametrize("way", ["onednn", "plain"])
@pytest.mark.parametrize(
    "settings",
    [
        {"squeeze": "max"},
        {"squeeze": "none"},
        {"gate": "tanh"},
        {"gate": "relu"},
        {"bias": False},
        {"reduction": (2, 4, 8, 16)},
    ],
    ids=str,
)
@torch.no_grad()
def test_every_kind_of_gate(settings, way, request):
    if way == "plain":
        request.getfixturevalue("plain")
    model = network("se_resnet50", se=SEConfig(**settings))
    exactly = copy.deepcopy(model).double()
    for count in (1, 2):
        x = images(75, 101, count=count)
        exact = outputs(exactly, x.double())
        # Gates of relu are not bounded, and neither is what they make of a rounding.
        assert difference(outputs(fuse(model), x), exact) < max(1e-5, 2 * difference(outputs(model, x), exact))


@pytest.mark.parametrize("norm", ["FrozenBN", "GN", "SyncBN"])
@torch.no_grad()
def test_every_normalisation(norm):
    model = network("se_resnet50", norm=norm)
    x = images()
    fused = fuse(model)
    assert difference(outputs(fused, x), outputs(model, x)) < 1e-5
    assert any(isinstance(module, nn.GroupNorm) for module in fused.modules()) == (norm == "GN")


@torch.no_grad()
def test_bf16_is_as_near_as_the_network_in_bf16():
    model = network("se_resnet50")
    half = copy.deepcopy(model).to(torch.bfloat16)
    for count in (1, 2):
        x = images(96, 96, count=count)
        exact = outputs(model, x)
        ours = outputs(fuse(model, torch.bfloat16), x)
        assert {name for name, value in ours.items() if value.dtype != torch.bfloat16} == {"logits"}
        assert difference(ours, exact) < max(1e-2, difference(outputs(half, x.bfloat16()), exact))


def parts(fused):
    """How often the graph calls what."""
    kinds = {name: type(module).__name__ for name, module in fused.body.named_modules()}
    return Counter(
        kinds[node.target] if node.op == "call_module" else str(node.target)
        for node in fused.body.graph.nodes
        if node.op not in ("placeholder", "output")
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", {"FusedConv2d": 23, "MaxPoolOfPositive": 1}),
        ("se_resnet50", {"FusedConv2d": 17, "GatedSum": 6, "MaxPoolOfPositive": 1}),
        ("se_resnet18", {"FusedConv2d": 10, "GatedSum": 6, "MaxPoolOfPositive": 1}),
        ("se_inception_resnet_v2", {"FusedConv2d": 52, "GatedSum": 6, "MaxPoolOfPositive": 4, "AvgPool2d": 1}),
        ("se_mobilenet_v1", {"FusedConv2d": 27, "SEGate": 13, "mul_": 13}),
    ],
)
def test_no_normalisation_sum_or_activation_is_left(name, expected):
    counted = parts(fuse(create_backbone(name)))
    del counted[next((one for one in counted if "cat" in one), "")]
    assert counted == expected


@pytest.mark.parametrize("name", ["resnet20_cifar", "se_resnet20_cifar"])
def test_no_sum_or_gate_walks_over_the_whole_graph(name, monkeypatch):
    """Else the time that fusing takes grows with the square of the depth."""
    nodes, walks = fx.Graph.nodes.fget, []
    monkeypatch.setattr(fx.Graph, "nodes", property(lambda graph: walks.append(1) or nodes(graph)))
    counts = []
    for deeper in (name, name.replace("20", "56")):
        walks.clear()
        fuse(create_backbone(deeper).eval())
        counts.append(len(walks))
    assert counts[0] == counts[1] > 0


def test_gates_of_bottlenecks_are_known_early_and_those_of_basic_units_late():
    for name, early in (("se_resnet50", True), ("se_inception_resnet_v2", True), ("se_resnet18", False)):
        sums = [module for module in fuse(create_backbone(name)).modules() if isinstance(module, GatedSum)]
        assert sums and all(one.early == early for one in sums)


@torch.no_grad()
def test_the_model_and_the_image_stay_as_they_were():
    model = network("se_resnet50").train()
    before = copy.deepcopy(model.state_dict())
    x = images()
    kept = x.clone()
    fused = fuse(model)
    first = outputs(fused, x)
    copies = {name: value.clone() for name, value in first.items()}
    second = outputs(fused, images(seed=9))
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(x, kept) and difference(second, first) > 0.01
    assert all(torch.equal(first[name], value) for name, value in copies.items())
    assert all(torch.equal(value, copies[name]) for name, value in outputs(fused, x).items())


@pytest.mark.parametrize("wanted", [["res3"], ["res2", "res4"], ["stem", "res2"]])
@torch.no_grad()
def test_maps_that_are_asked_for_are_not_overwritten(wanted):
    model = randomised(create_backbone("se_resnet18", 0, out_features=wanted)).eval()
    x = images()
    assert difference(fuse(model).forward_features(x), model.forward_features(x)) < 1e-5


@torch.no_grad()
def test_a_fused_network_can_be_copied_pickled_and_moved():
    fused, x = fuse(network("se_resnet50")), images(64, 64)
    expected = outputs(fused, x)
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert all(torch.equal(value, expected[name]) for name, value in outputs(other, x).items())
    assert difference(outputs(fused.double(), x.double()), expected) < 1e-5


@torch.no_grad()
def test_a_contiguous_image_and_a_channels_last_one_give_the_same():
    fused = fuse(network("se_resnet50"))
    x = images()
    expected = outputs(fused, x)
    for name, value in outputs(fused, x.contiguous(memory_format=torch.channels_last)).items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("name", ["layer2.0.bn1.running_var", "layer2.1.se.fc2.weight"])
def test_numbers_that_are_not_finite_are_refused_by_name(name):
    """oneDNN's ReLU hides them."""
    model = network("se_resnet18")
    model.state_dict()[name].view(-1)[3] = float("nan")
    with pytest.raises(ValueError, match=rf"{name} holds numbers that are not finite"):
        fuse(model)


@torch.no_grad()
def test_one_network_takes_images_of_all_sizes_and_numbers():
    """What oneDNN keeps from the first call fits the others."""
    model = network("se_resnet50")
    fused = fuse(model)
    for count, height, width in ((1, 64, 64), (3, 97, 65), (2, 224, 33), (1, 33, 300), (5, 64, 64)):
        x = images(height, width, count=count)
        assert difference(outputs(fused, x), outputs(model, x)) < 1e-5


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("way", ["in the weights", "over the map"])
@torch.no_grad()
def test_both_ways_of_gating(way, count, monkeypatch):
    monkeypatch.setattr(layers, "ALONE_FROM", 0)
    monkeypatch.setattr(layers, "PASSES", 0 if way == "in the weights" else 1e9)
    for name, wanted in (("se_resnet50", None), ("se_shufflenet_v1_g3", None), ("se_resnet50", ["res2", "res3"])):
        model = network(name) if wanted is None else randomised(create_backbone(name, 0, out_features=wanted)).eval()
        x = images(64, 96, count=count)
        assert difference(fuse(model).forward_features(x), model.forward_features(x)) < 1e-5


def test_what_a_fused_network_is_and_is_not():
    model = network("se_resnet18")
    fused = fuse(model)
    assert (fused.spec, fused.stages, fused.feature_info) == (model.spec, model.stages, model.feature_info)
    assert fused.head.weight.shape == model.head.weight.shape and fused.se_sites() == []
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    with pytest.raises(ValueError, match="for inference: train the one"):
        fused.train()
    with pytest.raises(ValueError, match="fused already"):
        fuse(fused)
    with pytest.raises(ValueError, match="one backbone"):
        fuse(nn.Linear(1, 1))


@torch.no_grad()
def test_within_another_model_and_with_a_stage_kept_elsewhere():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = randomised(create_backbone("se_resnet18", 0, out_features=["res4"]))
            whole = randomised(create_backbone("se_resnet18", 0, out_features=["res5"]), seed=4)
            self.last = whole.take_stage("res5")

        def forward(self, x):
            return self.last(self.body.forward_features(x)["res4"])

    model, x = Detector().eval(), images()
    fused = fuse(model)
    assert find_network(fused) is fused.body and not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert difference({"a": fused(x)}, {"a": model(x)}) < 1e-5


@torch.no_grad()
def test_inserted_and_partly_placed_gates():
    model = network("se_resnet50", se=SEConfig(stages=("res3", "res5"), without=("layer2.1",)))
    x = images()
    assert difference(outputs(fuse(model), x), outputs(model, x)) < 1e-5
    plain = network("resnet18")
    insert_se(plain)
    assert difference(outputs(fuse(plain), x), outputs(plain, x)) < 1e-5


@pytest.mark.parametrize("name", ["se_resnet50", "resnet18"])
@torch.no_grad()
def test_derivatives_forwards_are_those_of_the_network(name):
    """No operation is taken that PyTorch has no derivative of: they would be lost without a word."""
    model = network(name)
    x, direction = images(64, 64), torch.randn_like(images(64, 64))

    def found(one):
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(one(forward_ad.make_dual(x, direction))).tangent
        jvp = torch.func.jvp(one, (x,), (direction,))[1]
        return {"tangent": tangent, "jvp": jvp}

    assert difference(found(fuse(model)), found(model)) < 1e-5


@torch.no_grad()
def test_a_captured_graph_takes_any_number_of_images():
    fused = fuse(network("se_resnet18"))
    exported = torch.export.export(fused, (images(64, 64),), dynamic_shapes=({0: torch.export.Dim("images")},)).module()
    for count in (1, 3):
        x = images(64, 64, count=count)
        torch.testing.assert_close(exported(x), fused(x), rtol=1e-5, atol=1e-5)
    text = exported.code
    assert "mkldnn" not in text and "batch_norm" not in text


def test_onednn_is_tried_before_it_is_trusted(monkeypatch):
    operations._works_with.cache_clear()
    wrong = lambda *arguments: torch.zeros(1, 16, 2, 2)  # noqa: E731
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", wrong, raising=False)
    assert not operations._works_with(torch.float32)
    monkeypatch.undo()
    operations._works_with.cache_clear()
    assert operations._works_with(torch.float32) == torch.backends.mkldnn.is_available()


class Cudnn:
    """cuDNN's two operations, made of plain ones; ``refuses`` channels that it has no convolution for."""

    def __init__(self, refuses=()):
        self.calls, self.refuses = Counter(), refuses

    def relu(self, x, weight, bias, stride, padding, dilation, groups):
        return self._run("relu", x, weight, bias, stride, padding, dilation, groups).relu_()

    def add_relu(self, x, weight, other, alpha, bias, stride, padding, dilation, groups):
        out = self._run("add_relu", x, weight, bias, stride, padding, dilation, groups)
        return out.add_(other, alpha=alpha).relu_()

    def _run(self, name, x, weight, *how):
        self.calls[name] += 1
        if weight.shape[1] in self.refuses:
            self.calls["refused"] += 1
            raise RuntimeError("no valid execution plans")
        return nn.functional.conv2d(x, weight, *how)


@pytest.mark.parametrize("refuses", [(), (64, 512)], ids=str)
@pytest.mark.parametrize("name", ["resnet50", "se_resnet50", "se_resnet18", "se_resnext50_32x4d", "se_bn_inception"])
@torch.no_grad()
def test_with_the_operations_of_a_gpu(name, refuses, plain, monkeypatch):
    """Which of them is called when; what each computes on a GPU is for tests/gpu."""
    cudnn, kernels = Cudnn(refuses), Counter()

    def gated_sum(shortcut, branch, gate, relu, bias=None, out=None):
        kernels["bias" if bias is not None else "none"] += 1
        out = shortcut + gate * (branch if bias is None else branch + bias.view(-1, 1, 1))
        return out.relu() if relu else out

    monkeypatch.setattr(layers, "has_cudnn", lambda x: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", cudnn.relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", cudnn.add_relu)
    monkeypatch.setattr(layers, "KERNEL_FROM", 1)
    monkeypatch.setattr(layers, "kernels_for", lambda x: SimpleNamespace(forward=gated_sum))
    model = network(name)
    fused = fuse(model)
    for count in (1, 3):
        x = images(64, 64, count=count)
        assert difference(outputs(fused, x), outputs(model, x)) < 1e-5
    assert cudnn.calls["relu"] > 10 and (cudnn.calls["refused"] > 0) == bool(refuses)
    if name == "se_resnet50":  # in one image's weights; behind three images' convolutions
        assert cudnn.calls["add_relu"] == len(model.se_sites()) and kernels == {"bias": len(model.se_sites())}


@torch.no_grad()
def test_padding_by_name_and_biases():
    for settings in (
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": 1, "stride": 2, "groups": 2, "dilation": 2},
    ):
        conv = nn.Conv2d(4, 6, 3, **settings).eval()
        fused = FusedConv2d(conv.weight, conv.bias, conv)
        x = images(9, 11)[:, :1].repeat(1, 4, 1, 1)
        torch.testing.assert_close(fused(x), conv(x), rtol=1e-5, atol=1e-5)
    uneven = nn.Conv2d(4, 6, 2, padding="same")
    with pytest.raises(ValueError, match="uneven borders"):
        FusedConv2d(uneven.weight, uneven.bias, uneven)
