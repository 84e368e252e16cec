"""Inception-ResNet-v2: counts, timm's weights, gates on the residual branches, padding where maps are handed out."""

import pytest
import torch

from se_backbones import SEConfig, create_backbone, find_spec
from se_backbones.weights import convert_file, load_weights, read_state_dict

NAME = "inception_resnet_v2"


def parameters(name, **overrides):
    with torch.device("meta"):
        return sum(p.numel() for p in create_backbone(name, **overrides).parameters())


def test_parameters():
    counts = (parameters(NAME), parameters(f"se_{NAME}", se=SEConfig(bias=False)), parameters(f"se_{NAME}"))
    assert counts == (55_843_464, 64_338_824, 64_387_444)
    assert len(find_spec(NAME).sites()) == 40


def test_multiply_adds_and_how_far_the_papers_figure_is():
    with torch.device("meta"):
        model = create_backbone(f"se_{NAME}").eval()
        counted = {"plain": 0, "gates": 0}

        def count(name):
            def hook(module, _inputs, output):
                places = output[0, 0].numel() if output.dim() == 4 else 1
                counted["gates" if ".se." in name else "plain"] += places * module.weight.numel()

            return hook

        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count(name))
        model(torch.empty(1, 3, 299, 299))
    assert counted == {"plain": 13_155_794_016, "gates": 8_495_360}
    assert round(counted["plain"] / 1e9 - find_spec(NAME).paper_gflops, 2) == 1.41  # no variant gives the paper's


@torch.no_grad()
def randomise(model):
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.05, 0.5)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.0) if key.endswith("weight") else tensor.uniform_(-0.2, 0.2)
    return model.eval()


def test_timms_weights_compute_the_same_and_are_written_back(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = randomise(timm.create_model(NAME, num_classes=7))
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    ours = create_backbone(NAME, 7).eval()
    report = load_weights(ours, tmp_path / "timm.pth")
    assert report.layout == "timm" and report.loaded and not report.unaccounted
    assert len(report.loaded) + len(report.derived) == len(theirs.state_dict())
    x = torch.randn(2, 3, 139, 107, dtype=torch.float64)
    with torch.no_grad():
        a, b = ours.double()(x), theirs.double()(x)
    assert b.std() > 0 and (a - b).abs().max() <= 1e-12 * b.abs().max()
    state = read_state_dict(convert_file(tmp_path / "timm.pth", tmp_path / "back.pth", "timm").out).state_dict
    again = torch.load(tmp_path / "timm.pth", weights_only=True)
    assert state.keys() == again.keys() and all(torch.equal(state[key], again[key]) for key in again)


@pytest.mark.parametrize("path", ["repeat.3", "block8"])
def test_a_gate_scales_the_residual_branch_before_the_addition(path):
    torch.manual_seed(0)
    model = randomise(create_backbone(f"se_{NAME}", 3))
    block = model.get_submodule(path)
    x = torch.randn(2, block.conv2d.out_channels, 6, 5)
    with torch.no_grad():
        branch = block.conv2d(torch.cat([b(x) for name, b in block.named_children() if name.startswith("branch")], 1))
        expected = x + block.scale * block.se(branch) * branch
        expected = expected if path == "block8" else torch.relu(expected)
        torch.testing.assert_close(block(x), expected)
    assert block.scale == {"repeat.3": 0.17, "block8": 1.0}[path]


def test_without_a_classifier_it_pads_and_the_inner_of_its_maps_is_the_same():
    """Maps of H / stride for a pyramid, from the same weights. Padded, place m of the stem's map is centred on pixel
    4 m; un-padded, on 4 m + 9."""
    torch.manual_seed(0)
    classifier = randomise(create_backbone(NAME, 3)).double()
    features = create_backbone(NAME, 0, out_features=("stem", "block35")).eval().double()
    load_weights(features, classifier.state_dict(), allow=("unexpected:*",))
    x = torch.randn(1, 3, 192, 192, dtype=torch.float64)
    with torch.no_grad():
        padded, bare = features.forward_features(x), classifier.forward_features(x)["stem"]
        assert [tuple(info) for info in features.feature_info.values()] == [(192, 4), (320, 8)]
        assert padded["stem"].shape[2:] == (48, 48) and padded["block35"].shape[2:] == (24, 24)
        shifted = features.forward_features(x[:, :, 1:, 1:])["stem"]
    torch.testing.assert_close(shifted[:, :, 4:40, 4:40], bare[:, :, 2:38, 2:38])
