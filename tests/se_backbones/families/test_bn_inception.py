"""BN-Inception: its numbers, pytorchcv's and pretrainedmodels' weights, gates behind concatenations, odd sizes."""

import copy
import math

import pytest
import torch
from torch import nn

from engine.report.cost import count_multiply_adds
from se_backbones import SEConfig, create_backbone, fold_constant_gates, insert_se
from se_backbones.errors import WeightsError
from se_backbones.preprocessing import IMAGENET_RGB, Preprocessing
from se_backbones.weights import load_weights, read_state_dict
from se_backbones.weights.convert import convert_file
from se_backbones.weights.inserting import insert_se_into_file, load_weights_inserting_se
from tests.se_backbones import networks
from tests.se_backbones.networks import images, parameters

# Largest difference from a peer, relative to the largest number, in float64: the same operations, but for biases that
# are part of the running means.
TOLERANCE = 1e-12
HALVING = ("features.stage2.unit1", "features.stage3.unit1")  # 3c, 4e


def randomised(model, seed=0):
    return networks.randomised(model, seed, scales=(0.5, 1.5)).eval()


def trained(name="bn_inception", classes=5, seed=0, **overrides):
    return randomised(create_backbone(name, classes, **overrides), seed)


@torch.no_grad()
def outputs(model, x):
    features = model.forward_features(x)
    return features | ({"logits": model.classify(features["inception5"])} if model.num_classes else {})


def largest_difference(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def test_parameters_and_multiply_adds():
    name = "se_bn_inception"
    counts = parameters("bn_inception"), parameters(name, se=SEConfig(bias=False)), parameters(name)
    assert counts == (11_285_224, 11_924_584, 11_931_622)
    assert count_multiply_adds(create_backbone("bn_inception"), 224) == 2_032_600_064
    assert count_multiply_adds(create_backbone(name), 224) == 2_032_600_064 + 639_360


def test_ten_gates_in_the_stages_that_numbers_name():
    sites = create_backbone("se_bn_inception", 0, out_features=("inception5",)).se_sites()
    assert [site.stage[-1] for site in sites] == list("3344444555")
    assert [site.channels() for site in sites] == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]
    some = create_backbone("se_bn_inception", 0, se=SEConfig(stages=(4,), reduction=(8, 16, 32)))
    assert [site.gate is not None for site in some.se_sites()] == [False] * 2 + [True] * 5 + [False] * 3
    assert some.se_sites()[2].gate.fc1.out_channels == 576 // 16
    with pytest.raises(ValueError, match="last stage of bn_inception cannot be dilated"):
        create_backbone("bn_inception", 0, last_dilation=2)


@pytest.mark.parametrize("height, width", [(75, 101), (64, 96), (65, 33)])
def test_odd_sizes_round_as_the_docstring_says(height, width):
    model = trained(classes=0)
    maps = outputs(model, images(height, width, 1))
    for side, of_map in ((height, 2), (width, 3)):
        size = math.ceil(side / 2)
        expected = {"conv1": size, "conv2": size // 2, "inception3": size // 4}
        expected["inception4"] = math.ceil(expected["inception3"] / 2)
        expected["inception5"] = math.ceil(expected["inception4"] / 2)
        assert {name: tensor.shape[of_map] for name, tensor in maps.items()} == expected


def test_the_halving_pool_is_the_published_one_where_that_fits_and_keeps_the_last_row_where_not():
    pool = create_backbone("bn_inception", 0).get_submodule(HALVING[0]).branches["branch3"]
    published = nn.MaxPool2d(3, 2, ceil_mode=True)
    even, odd = -torch.rand(1, 2, 6, 8), -torch.rand(1, 2, 7, 9)  # below 0, as behind a tanh gate
    assert torch.equal(pool(even), published(even))
    assert torch.equal(pool(odd)[:, :, :3, :4], published(odd))
    assert torch.equal(pool(odd)[:, :, 3, 4], odd[:, :, 6, 8])


def test_a_batch_is_its_images_one_by_one():
    model, x = trained("se_bn_inception").double(), images().double()
    whole, single = outputs(model, x), [outputs(model, image[None]) for image in x]
    for name, tensor in whole.items():
        assert largest_difference(torch.cat([one[name] for one in single]), tensor) < TOLERANCE


# --- the peers


@pytest.fixture(scope="module")
def pytorchcv():
    peer = pytest.importorskip("pytorchcv.model_provider", reason="the peer to compare with; pip install pytorchcv")
    return randomised(peer.get_model("bninception", num_classes=7), seed=3)


def test_pytorchcvs_network_from_its_file(pytorchcv, tmp_path):
    theirs = copy.deepcopy(pytorchcv).double()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = create_backbone("bn_inception", 7).double().eval()
    report = load_weights(ours, tmp_path / "theirs.pth", preprocessing=IMAGENET_RGB)
    assert report.layout == "pytorchcv" and not report.unaccounted and not report.missing and not report.unexpected
    biases = [name for name in pytorchcv.state_dict() if name.endswith("conv.bias")]
    assert len(biases) == 69 and set(report.ignored) == set(biases)
    stages = {"conv1": theirs.features.init_block.conv1, "inception3": theirs.features.stage1}
    stages |= {"inception4": theirs.features.stage2, "inception5": theirs.features.stage3}
    kept = {}
    for name, module in stages.items():
        module.register_forward_hook(lambda _module, _inputs, out, name=name: kept.__setitem__(name, out.clone()))
    x = images(224, 224, 1).double()
    with torch.no_grad():
        kept["logits"] = theirs(x)
    found = outputs(ours, x)
    for name, tensor in kept.items():
        assert largest_difference(found[name], tensor) < TOLERANCE, name
    with pytest.raises(WeightsError, match="the weights want images as RGB"):
        load_weights(ours, tmp_path / "theirs.pth", preprocessing=Preprocessing("BGR", 255, (104, 117, 123), (1, 1, 1)))


def test_a_file_for_pytorchcv_is_one_that_it_loads_and_computes_alike(pytorchcv, tmp_path):
    torch.save(pytorchcv.state_dict(), tmp_path / "theirs.pth")
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    converted = read_state_dict(tmp_path / "ours.safetensors")
    with torch.device("meta"):
        assert converted.state_dict.keys() == create_backbone("bn_inception").state_dict().keys()
    assert converted.preprocessing == IMAGENET_RGB and converted.architecture == "bn_inception"
    convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="pytorchcv")
    back = copy.deepcopy(pytorchcv)
    back.load_state_dict(read_state_dict(tmp_path / "back.pth").state_dict)
    x = images(224, 224, 1).double()
    with torch.no_grad():
        assert largest_difference(back.double()(x), copy.deepcopy(pytorchcv).double()(x)) < 1e-5  # float32's rounding
    # With biases of zero, which is all that they can do, every number comes back.
    zero = {name: t.zero_() if name.endswith("conv.bias") else t for name, t in back.float().state_dict().items()}
    torch.save(zero, tmp_path / "zero.pth")
    convert_file(tmp_path / "zero.pth", tmp_path / "again.pth", to="pytorchcv")
    again = read_state_dict(tmp_path / "again.pth").state_dict
    assert again.keys() == zero.keys() and all(torch.equal(again[name], zero[name]) for name in zero)


def test_pretrainedmodels_names(tmp_path):
    """Names as its bninception.py has them; the numbers are a network's of ours."""
    model = trained()
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    convert_file(tmp_path / "ours.pth", tmp_path / "theirs.pth", to="pretrainedmodels")
    written = read_state_dict(tmp_path / "theirs.pth")
    state, unit = model.state_dict(), "features.stage1.unit2.branches"
    for theirs, ours in {
        "conv1_7x7_s2.weight": "features.init_block.conv1.conv.weight",
        "conv2_3x3_bn.running_var": "features.init_block.conv2.conv2.bn.running_var",
        "inception_3b_1x1.weight": f"{unit}.branch1.conv.weight",
        "inception_3b_3x3_reduce.weight": f"{unit}.branch2.conv1.conv.weight",
        "inception_3b_3x3.weight": f"{unit}.branch2.conv2.conv.weight",
        "inception_3b_double_3x3_reduce_bn.bias": f"{unit}.branch3.conv1.bn.bias",
        "inception_3b_double_3x3_1.weight": f"{unit}.branch3.conv2.conv.weight",
        "inception_3b_double_3x3_2_bn.weight": f"{unit}.branch3.conv3.bn.weight",
        "inception_3b_pool_proj.weight": f"{unit}.branch4.conv.conv.weight",
        "inception_4e_double_3x3_2.weight": f"{HALVING[1]}.branches.branch2.conv3.conv.weight",
        "last_linear.bias": "output.bias",
    }.items():
        assert torch.equal(written.state_dict[theirs], state[ours]), theirs
    assert not written.state_dict["inception_5b_pool_proj.bias"].any()
    assert not any("branch" in name for name in written.state_dict) and len(written.state_dict) == 69 * 7 + 2
    torch.save(written.state_dict, tmp_path / "bare.pth")
    bare = read_state_dict(tmp_path / "bare.pth")
    assert bare.layout == "pretrainedmodels"
    assert str(bare.preprocessing) == "BGR 0–255, mean [104, 117, 128], std [1, 1, 1]"
    other = create_backbone("bn_inception", 5).eval()
    assert not load_weights(other, bare).unaccounted
    for name, tensor in outputs(model, images()).items():
        assert torch.equal(outputs(other, images())[name], tensor), name


def test_se_goes_to_no_layout_that_has_none(tmp_path):
    torch.save(trained("se_bn_inception").state_dict(), tmp_path / "se.pth")
    weights = read_state_dict(tmp_path / "se.pth")
    assert weights.shape.rows and weights.shape.reduction == 16 and weights.preprocessing is None
    for layout in ("pytorchcv", "pretrainedmodels"):
        with pytest.raises(WeightsError, match="no place for squeeze-and-excitation"):
            convert_file(tmp_path / "se.pth", tmp_path / "out.pth", to=layout)


# --- insertion and folding


@pytest.mark.parametrize(
    "se, norm, training",
    [
        (SEConfig(), "BN", False),
        (SEConfig(), "FrozenBN", False),
        (SEConfig(gate="relu"), "BN", True),
        (SEConfig(squeeze="none", bias=False, stages=(4, 5)), "BN", False),
    ],
)
def test_insertion_is_exact_and_folding_takes_it_back(se, norm, training):
    plain = trained(norm=norm).train(training)
    twin = insert_se(copy.deepcopy(plain), se)
    assert twin.spec.name == "se_bn_inception"
    x = images(40, 50)
    for name, tensor in outputs(copy.deepcopy(plain), x).items():
        assert torch.equal(outputs(copy.deepcopy(twin), x)[name], tensor), name
    report = fold_constant_gates(twin, [x], 0)
    assert len(report.folded) == (8 if se.stages else 10) and twin.spec == plain.spec
    for name, tensor in plain.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor), name


def test_a_file_gets_its_gates_and_keeps_what_it_says_of_its_images(tmp_path):
    state = trained().state_dict()
    biases = {f"{name.removesuffix('weight')}bias": torch.ones(len(t)) for name, t in state.items() if t.dim() == 4}
    torch.save(state | biases, tmp_path / "plain.pth")
    done = insert_se_into_file(tmp_path / "plain.pth", tmp_path / "se.safetensors")
    assert done.architecture == "se_bn_inception" and done.largest_difference == 0 < done.largest_value
    assert done.note.endswith("so that the network computes what it did without")  # the maps too
    written = read_state_dict(tmp_path / "se.safetensors")
    assert written.preprocessing == IMAGENET_RGB and not biases.keys() & written.state_dict.keys()
    twin = create_backbone("se_bn_inception", 5).eval()
    load_weights(twin, written, preprocessing=IMAGENET_RGB)
    plain = create_backbone("bn_inception", 5).eval()
    load_weights(plain, tmp_path / "plain.pth")
    for name, tensor in outputs(plain, images()).items():
        assert torch.equal(outputs(twin, images())[name], tensor), name


def test_factors_of_a_pooled_branch_go_to_the_convolutions_behind():
    plain = trained()
    twin = insert_se(copy.deepcopy(plain))
    ratio = {name: twin.state_dict()[name] / tensor for name, tensor in plain.state_dict().items()}
    # 3c: 160 and 96 channels of convolutions, and 320 of the map before.
    behind = "features.stage2.unit2.branches"
    for inner in ("branch1.conv", "branch2.conv1.conv", "branch3.conv1.conv", "branch4.conv.conv"):
        assert (ratio[f"{behind}.{inner}.weight"][:, :256] == 1).all()
        assert (ratio[f"{behind}.{inner}.weight"][:, 256:] == 2).all()
    assert (ratio[f"{HALVING[0]}.branches.branch2.conv3.bn.weight"] == 2).all()
    assert (ratio["features.stage2.unit3.branches.branch1.conv.weight"] == 1).all()
    assert (
        "convolutions behind a pooled branch has doubled weights"
        in load_weights_inserting_se(create_backbone("se_bn_inception", 5), plain.state_dict()).notes[-1]
    )


@torch.no_grad()
def test_folding_means_of_any_size_changes_nothing_but_by_rounding():
    """A different constant for every channel, so that each must go to its own place."""
    model = trained("se_bn_inception").double()
    for number, site in enumerate(model.se_sites()):
        site.gate.fc2.weight.zero_()
        torch.nn.init.normal_(site.gate.fc2.bias, generator=torch.Generator().manual_seed(number))
    before, x = copy.deepcopy(model), images().double()
    report = fold_constant_gates(model, [x], 1e-12)
    assert len(report.folded) == 10 and model.spec.name == "bn_inception"
    ours, theirs = outputs(model, x), outputs(before, x)
    assert all(largest_difference(ours[name], theirs[name]) < TOLERANCE for name in theirs)


def test_a_stage_by_itself_still_knows_the_unit_behind():
    """As a C4 detector has it: the last stage is kept in the heads."""

    def build():
        model = nn.ModuleDict({"backbone": trained(classes=0, out_features=("inception4",))})
        model["res5"] = trained().take_stage("inception5")
        return copy.deepcopy(model).eval()

    plain, twin = build(), insert_se(build())
    x = images(64, 64)
    with torch.no_grad():
        maps = [model["res5"](model["backbone"].forward_features(x)["inception4"]) for model in (plain, twin)]
    assert torch.equal(*maps) and twin["res5"].unit1.se is not None


# --- training


def test_recomputing_gives_the_same_and_frozen_stages_stay():
    results = []
    for recompute in (False, True):
        model = trained("se_bn_inception", freeze_at=2, recompute=recompute).double().train()
        logits = model(images().double())
        logits.square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        results.append((logits, gradients, model.state_dict()))
    (ours, gradients, state), (again, gradients_again, state_again) = results
    assert torch.equal(ours, again) and gradients.keys() == gradients_again.keys()
    assert not any("init_block" in name for name in gradients) and all(g is not None for g in gradients.values())
    for name, gradient in gradients.items():
        assert (gradients_again[name] - gradient).norm() <= 1e-9 * gradient.norm(), name
    assert all(torch.equal(state[name], state_again[name]) for name in state)


def test_stages_behind_the_last_asked_for_are_not_built():
    model = trained(classes=0, out_features=("conv2", "inception3"))
    assert set(outputs(model, images())) == {"conv2", "inception3"} == set(model.feature_info)
    assert not any("stage2" in name for name in model.state_dict())
    with pytest.raises(ValueError, match="no residual branch"):
        create_backbone("bn_inception", zero_init_last=True)
