"""VGG-16: counts, torchvision's and timm's weights, and a gate behind a ReLU."""

import copy

import pytest
import torch

from se_backbones import SEConfig, create_backbone, insert_se
from se_backbones.weights import WeightsError, convert_file, load_weights, read_state_dict

# Plain, with SE without and with biases in the gates' layers.
COUNTS = {
    "vgg16": (138_361_768, 138_588_072, 138_592_560),
    "vgg16_conv_bias": (138_365_992, 138_592_296, 138_596_784),
}


def parameters(name, **overrides):
    with torch.device("meta"):
        return sum(p.numel() for p in create_backbone(name, **overrides).parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameters(name):
    counts = (parameters(name), parameters(f"se_{name}", se=SEConfig(bias=False)), parameters(f"se_{name}"))
    assert counts == COUNTS[name]


def test_multiply_adds():
    """Convolutions and layers, counted from shapes at 224 pixels: 15,470,264,320 and 226,304 of the gates."""
    with torch.device("meta"):
        model = create_backbone("se_vgg16").eval()
        counted = {"plain": 0, "gates": 0}

        def count(name):
            def hook(module, _inputs, output):
                places = output[0, 0].numel() if output.dim() == 4 else 1
                counted["gates" if ".se." in name else "plain"] += places * module.weight.numel()

            return hook

        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count(name))
        model(torch.empty(1, 3, 224, 224))
    assert counted == {"plain": 15_470_264_320, "gates": 226_304}


@pytest.fixture(scope="module")
def peer():
    """torchvision's network with nothing at its first value."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.vgg16_bn(init_weights=False).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.0)  # so that mean - bias is exact in float32
    return model


@pytest.fixture(scope="module")
def peer_file(peer, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16_bn.pth"
    torch.save(peer.state_dict(), path)
    return path


IMAGE = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))


def compare(ours, theirs):
    with torch.no_grad():
        a, b = ours.double()(IMAGE.double()), theirs.double()(IMAGE.double())
    ours.float(), theirs.float()
    return (a - b).norm() / b.norm()


def test_torchvisions_weights_compute_the_same(peer, peer_file):
    model = create_backbone("vgg16_conv_bias").eval()
    report = load_weights(model, peer_file)
    assert len(report.loaded) == len(peer.state_dict()) and not report.ignored and report.layout == "torchvision"
    assert compare(model, peer) == 0


def test_biases_before_a_normalisation_go_into_its_mean(peer, peer_file):
    model = create_backbone("vgg16").eval()
    report = load_weights(model, peer_file)
    assert len(report.ignored) == 13 and not report.unexpected and not report.missing
    assert report.ignored["features.40.bias"] == "folded into features.41.running_mean"
    assert compare(model, peer) < 1e-12


def test_timms_form_is_the_same_numbers_there_and_back(peer, peer_file, tmp_path):
    to_timm = convert_file(peer_file, tmp_path / "timm.pth", "timm")
    assert to_timm.architecture == "vgg16_conv_bias"
    written = read_state_dict(to_timm.out)
    assert written.layout == "timm" and written.state_dict["pre_logits.fc1.weight"].shape == (4096, 512, 7, 7)
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("vgg16_bn")
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in written.state_dict.items()}
    back = convert_file(to_timm.out, tmp_path / "back.pth", "torchvision")
    state = read_state_dict(back.out).state_dict
    assert state.keys() == peer.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in peer.state_dict().items())


def test_timm_computes_the_same_from_what_is_written_for_it(peer, peer_file, tmp_path):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("vgg16_bn")
    state = read_state_dict(convert_file(peer_file, tmp_path / "timm.pth", "timm").out).state_dict
    theirs.load_state_dict(state, assign=True)
    theirs.eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(theirs(image), peer(image), rtol=1e-4, atol=1e-4)


def test_what_others_cannot_hold_is_refused(tmp_path):
    for name, why in (("se_vgg16", "squeeze-and-excitation"), ("vgg16", "have biases")):
        state = create_backbone(name, 2, se=SEConfig() if name.startswith("se") else None).state_dict()
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=why):
            convert_file(tmp_path / "w.pth", tmp_path / "out.pth", "torchvision")


def test_a_gate_scales_the_map_behind_its_relu():
    torch.manual_seed(0)
    model = create_backbone("se_vgg16", 0, out_features=("conv1",)).eval()
    x = torch.randn(2, 3, 12, 12)
    f = model.features
    with torch.no_grad():
        y = torch.relu(f[1](f[0](x)))
        y = torch.relu(f[4](f[3](y * f[2].se(y))))
        expected = torch.nn.functional.max_pool2d(y * f[5].se(y), 2)
        assert torch.equal(model.forward_features(x)["conv1"], expected)


def test_gates_of_a_frozen_stage_are_frozen():
    twin = insert_se(create_backbone("vgg16", 0, freeze_at=2))
    built = create_backbone("se_vgg16", 0, freeze_at=2)
    learns = {name: parameter.requires_grad for name, parameter in twin.named_parameters()}
    assert learns == {name: parameter.requires_grad for name, parameter in built.named_parameters()}
    assert not learns["features.2.se.fc1.weight"] and learns["features.16.se.fc1.weight"]


def test_a_new_number_of_classes_replaces_the_last_layer_alone():
    model = create_backbone("vgg16", 5)
    hidden = copy.deepcopy(model.classifier[3].state_dict())
    model.set_head(torch.nn.Linear(4096, 7))
    assert model(torch.randn(2, 3, 64, 50)).shape == (2, 7)
    assert all(torch.equal(model.classifier[3].state_dict()[key], tensor) for key, tensor in hidden.items())
