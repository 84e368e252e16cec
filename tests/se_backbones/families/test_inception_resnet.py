"""Inception-ResNet-v2: counts, others' weights, gates on the residual branches, padding where maps are handed out."""

import math
from dataclasses import replace

import pytest
import torch

from se_backbones import SEConfig, create_backbone, find_spec, fold_constant_gates, registry
from se_backbones.layers.norm import FrozenBatchNorm2d
from se_backbones.preprocessing import Preprocessing
from se_backbones.weights import WeightsError, convert_file, guess_architecture, load_weights, read_state_dict
from se_backbones.weights.inserting import insert_se_into_file, load_weights_inserting_se
from tests.se_backbones.networks import multiply_adds, parameters, replace_rows

NAME = "inception_resnet_v2"
SHORT = "short_inception_resnet_v2"  # two residual blocks a stage: files of 80 MB instead of 220
WHOLE = registry.family_of(find_spec(NAME))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def short_rows(monkeypatch):
    """The family's rows are short: ``short_inception_resnet_v2`` and its twin."""
    hyper = replace(find_spec(NAME).hyper, depths=(2, 2, 2))
    rows = [replace(row, name=row.name.replace(NAME, SHORT), hyper=hyper) for row in WHOLE.rows]
    replace_rows(monkeypatch, WHOLE, rows)


def test_parameters():
    counts = (parameters(NAME), parameters(f"se_{NAME}", se=SEConfig(bias=False)), parameters(f"se_{NAME}"))
    assert counts == (55_843_464, 64_338_824, 64_387_444)
    assert len(find_spec(NAME).sites()) == 40


def test_multiply_adds_and_how_far_the_papers_figure_is():
    plain = multiply_adds(NAME, 299)
    assert (plain, multiply_adds(f"se_{NAME}", 299) - plain) == (13_155_794_016, 8_495_360)
    assert round(plain / 1e9 - find_spec(NAME).paper_gflops, 2) == 1.41  # no variant gives the paper's


@torch.no_grad()
def randomise(model):
    """Every tensor away from its first value. ``model`` may be built on the meta device, which takes no time."""
    if next(model.parameters()).is_meta:
        model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.05, 0.5, generator=generator)
        elif not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.dim() > 1:
            bound = math.sqrt(6 / tensor[0].numel())
            tensor.uniform_(-bound, bound, generator=generator)
        else:
            low, high = (0.5, 1.0) if key.endswith("weight") else (-0.2, 0.2)
            tensor.uniform_(low, high, generator=generator)
    return model.eval()


def built(name, num_classes, **overrides):
    with torch.device("meta"):
        model = create_backbone(name, num_classes, **overrides)
    return randomise(model)


def timms(num_classes):
    timm = pytest.importorskip("timm", reason="the peer to compare with; pip install timm")
    with torch.device("meta"):
        return timm.create_model(NAME, num_classes=num_classes)


def pytorchcvs(num_classes):
    models = pytest.importorskip("pytorchcv.models.inceptionresnetv2", reason="the peer to compare with")
    with torch.device("meta"):
        theirs = models.inceptionresnetv2(num_classes=num_classes)
    theirs.features.final_pool = torch.nn.AdaptiveAvgPool2d(1)  # theirs is for a map of 8×8 alone
    return theirs


def shortened(theirs):
    """A peer's network with two residual blocks a stage."""
    stages = getattr(theirs, "features", theirs)
    kept = {"repeat": 2, "repeat_1": 2, "repeat_2": 1, "stage1": 2, "stage2": 3, "stage3": 2}
    for name, stage in stages.named_children():
        for unit, _ in list(stage.named_children())[kept.get(name, 99) :]:
            if not (name == "stage3" and unit == "unit11"):
                delattr(stage, unit)
    return theirs


def test_pytorchcvs_whole_network_has_our_shapes():
    theirs, layout = pytorchcvs(1000).state_dict(), WHOLE.layout("pytorchcv")
    names = layout.to_ours(theirs)
    ours = {names[key]: tensor for key, tensor in theirs.items()}
    assert registry.shapes_of(ours) == registry.shapes_of(registry.skeleton(find_spec(NAME)).state_dict())
    assert layout.from_ours(ours) == {new: old for old, new in names.items()}
    assert guess_architecture(ours, family=WHOLE) == NAME


@pytest.mark.parametrize("layout, peer", [("timm", timms), ("pytorchcv", pytorchcvs)])
def test_others_weights_compute_the_same_and_are_written_back(layout, peer, short_rows, tmp_path):
    theirs = randomise(shortened(peer(7)))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = built(SHORT, 7)
    report = load_weights(ours, tmp_path / "theirs.pth")
    assert report.layout == layout and report.loaded and not report.unaccounted and not report.missing
    half = Preprocessing("RGB", 1, (0.5,) * 3, (0.5,) * 3).as_dict()
    assert report.preprocessing == (half if layout == "timm" else None)
    x = torch.randn(2, 3, 139, 107, dtype=torch.float64)
    with torch.no_grad():
        a, b = ours.double()(x), theirs.double()(x)
    # The same operations in float64, one product of the residual branch in another order.
    assert b.std() > 0 and (a - b).abs().max() <= 1e-12 * b.abs().max()
    done = convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert done.architecture == SHORT
    state = read_state_dict(convert_file(done.out, tmp_path / "back.pth", layout).out).state_dict
    again = read_state_dict(tmp_path / "theirs.pth").state_dict
    assert state.keys() == again.keys() and all(torch.equal(state[key], again[key]) for key in again)


def test_the_maps_are_timms():
    theirs, ours = randomise(timms(2)).double(), built(NAME, 2).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 107, 91, dtype=torch.float64)
    with torch.no_grad():
        maps = theirs.forward_intermediates(x, indices=[1, 2, 3, 4], intermediates_only=True)
        assert (ours(x) - theirs(x)).abs().max() <= 1e-12 * theirs(x).abs().max()
        for (stage, tensor), there in zip(ours.forward_features(x).items(), maps, strict=True):
            assert (tensor - there).abs().max() <= 1e-12 * there.abs().max(), stage


def test_insertion_into_a_file_and_while_loading(short_rows, tmp_path):
    plain = built(SHORT, 3)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    done = insert_se_into_file(tmp_path / "plain.pth", tmp_path / "se.safetensors")
    assert done.architecture == f"se_{SHORT}" and done.largest_difference == 0
    assert "its branch's last convolution has doubled weight and bias" in done.note
    assert "it has squeeze-and-excitation, for which there is no place" in done.timm
    with pytest.raises(WeightsError, match="for which there is no place"):
        convert_file(tmp_path / "se.safetensors", tmp_path / "no.pth", "pytorchcv")
    x = torch.randn(1, 3, 91, 107)
    for source, load in (
        (tmp_path / "se.safetensors", load_weights),
        (tmp_path / "plain.pth", load_weights_inserting_se),
    ):
        twin = built(f"se_{SHORT}", 3)
        load(twin, source)
        with torch.no_grad():
            assert torch.equal(twin(x), plain(x))
    assert load_weights(built(f"se_{SHORT}", 3), twin.state_dict()).preprocessing is None


def test_gates_that_are_another_constant_for_each_channel_fold_to_rounding():
    twin = built(f"se_{NAME}", 3).double()
    x = torch.randn(2, 3, 107, 91, dtype=torch.float64)
    with torch.no_grad():
        for site in twin.se_sites():
            site.gate.fc2.weight.zero_()
        before = twin(x)
        report = fold_constant_gates(twin, [x], tolerance=1e-12)
        assert len(report.folded) == 40 and twin.spec.name == NAME
        assert (twin(x) - before).abs().max() <= 1e-12 * before.abs().max()


def test_a_frozen_stage_keeps_tensorflows_epsilon():
    live, frozen = built(NAME, 0), create_backbone(NAME, 0, freeze_at=4).eval()
    frozen.load_state_dict(live.state_dict(), strict=False)
    assert {m.eps for m in frozen.modules() if isinstance(m, FrozenBatchNorm2d)} == {1e-3}
    assert not [m for m in frozen.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not [name for name, p in frozen.named_parameters() if p.requires_grad]
    x = torch.randn(1, 3, 75, 101, dtype=torch.float64)
    with torch.no_grad():
        theirs, ours = (model.double().forward_features(x)["block35"] for model in (live, frozen))
    # The statistics are folded in another order; 1e-5 in place of 1e-3 would be off by a hundredth.
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def test_sizes_with_a_classifier_and_without():
    with torch.device("meta"):
        classifier, features = create_backbone(NAME, 3).eval(), create_backbone(NAME, 0).eval()

        def sides(model, size):
            return [tensor.shape[2] for tensor in model.forward_features(torch.empty(1, 3, size, size)).values()]

        assert sides(classifier, 299) == [71, 35, 17, 8] and sides(classifier, 75) == [15, 7, 3, 1]
        assert sides(classifier, 320) == [76, 37, 18, 8]  # no pyramid can stand on these
        with pytest.raises(RuntimeError):
            sides(classifier, 74)
        for size in (299, 320, 75, 33):
            assert sides(features, size) == [math.ceil(size / stride) for stride in (4, 8, 16, 32)]


def test_stages_behind_the_last_one_asked_for_are_not_built():
    with torch.device("meta"):
        network = create_backbone(f"se_{NAME}", 0, out_features=["block35", "block17"])
    assert network.stages == ("stem", "block35", "block17") and len(network.se_sites()) == 30
    assert not any(name.startswith(("mixed_7a", "repeat_2", "block8", "classif")) for name in network.state_dict())


@pytest.mark.parametrize("path", ["repeat.3", "block8"])
def test_a_gate_scales_the_residual_branch_before_the_addition(path):
    model = built(f"se_{NAME}", 3)
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
    classifier = built(NAME, 3).double()
    features = create_backbone(NAME, 0, out_features=("stem", "block35")).eval().double()
    load_weights(features, classifier.state_dict(), allow=("unexpected:*",))
    x = torch.randn(1, 3, 192, 192, dtype=torch.float64)
    with torch.no_grad():
        padded, bare = features.forward_features(x), classifier.forward_features(x)["stem"]
        assert [tuple(info) for info in features.feature_info.values()] == [(192, 4), (320, 8)]
        assert padded["stem"].shape[2:] == (48, 48) and padded["block35"].shape[2:] == (24, 24)
        shifted = features.forward_features(x[:, :, 1:, 1:])["stem"]
    torch.testing.assert_close(shifted[:, :, 4:40, 4:40], bare[:, :, 2:38, 2:38])
