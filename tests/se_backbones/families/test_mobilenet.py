"""MobileNet v1: its numbers, timm's and pytorchcv's weights, and gates behind a ReLU6."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from engine.report.cost import count_multiply_adds
from se_backbones import SEConfig, create_backbone, insert_se
from se_backbones.errors import WeightsError
from se_backbones.preprocessing import IMAGENET_RGB, Preprocessing
from se_backbones.surgery.fold import fold_constant_gates
from se_backbones.weights import load_weights, read_state_dict
from se_backbones.weights.convert import convert_file
from se_backbones.weights.inserting import insert_se_into_file, load_weights_inserting_se
from tests.se_backbones import networks
from tests.se_backbones.networks import TOLERANCE, images, parameters

SMALL = "mobilenet_v1_050"


randomised = partial(networks.randomised, scales=(1, 3))  # activations fill the range that ReLU6 clips


def trained(name=SMALL, classes=5, **overrides):
    return randomised(create_backbone(name, classes, **overrides))


@pytest.mark.parametrize("activation", ["", "_relu"])
def test_parameters_and_multiply_adds(activation):
    plain, se = f"mobilenet_v1{activation}", f"se_mobilenet_v1{activation}"
    counts = parameters(plain), parameters(se, se=SEConfig(bias=False)), parameters(se)
    assert counts == (4_231_976, 4_711_720, 4_718_044)
    # pytorchcv's mobilenet_w3d4 and mobilenet_wd2
    assert (parameters(f"mobilenet_v1_075{activation}"), parameters(f"mobilenet_v1_050{activation}")) == (
        2_585_560,
        1_331_592,
    )
    macs = [count_multiply_adds(create_backbone(name)) for name in (plain, se)]
    assert macs == [568_740_352, 568_740_352 + 479_744]
    # Table 3 of the SE paper, 572 M, counts the products of gate and map too.
    network = create_backbone(se, num_classes=0)
    with torch.no_grad():
        sizes = {
            name: tensor.shape[2] for name, tensor in network.forward_features(torch.zeros(1, 3, 224, 224)).items()
        }
    scaling = sum(site.channels() * sizes[site.stage] ** 2 for site in network.se_sites())
    assert round((macs[1] + scaling) / 1e6) == 572


@pytest.mark.parametrize("width, suffix", [(1.0, ""), (0.75, "_075"), (0.5, "_050")])
def test_timm_weights_keep_their_names_and_compute_the_same(width, suffix, tmp_path):
    efficientnet = pytest.importorskip("timm.models.efficientnet", reason="the peer to compare with; pip install timm")
    theirs = randomised(efficientnet._gen_mobilenet_v1("mobilenetv1_100", width, num_classes=7)).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = create_backbone(f"mobilenet_v1{suffix}", 7).eval()
    report = load_weights(ours, tmp_path / "theirs.pth")
    assert report.layout == "timm" and not report.unaccounted and not report.converted and not report.missing
    assert report.preprocessing == Preprocessing("RGB", 1, (0.5,) * 3, (0.5,) * 3).as_dict()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = images().double()
    with torch.no_grad():
        expected = theirs.double()(x)
        assert (ours.double()(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()
        maps = theirs.forward_intermediates(x, intermediates_only=True)
    features = ours.forward_features(x)
    for name, tensor in zip(ours.stages[1:], maps, strict=True):
        assert (features[name] - tensor).abs().max() <= TOLERANCE * tensor.abs().max(), name


@pytest.mark.parametrize(
    "peer, name", [("mobilenet_w1", "mobilenet_v1_relu"), ("mobilenet_wd2", "mobilenet_v1_050_relu")]
)
def test_pytorchcv_weights_compute_the_same_and_are_written_back(peer, name, tmp_path):
    models = pytest.importorskip("pytorchcv.models.mobilenet", reason="the peer to compare with; pip install pytorchcv")
    theirs = randomised(getattr(models, peer)(num_classes=7)).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = create_backbone(name, 7).eval()
    report = load_weights(ours, tmp_path / "theirs.pth", preprocessing=IMAGENET_RGB)
    assert report.layout == "pytorchcv" and not report.unaccounted and not report.missing
    x = images(224, 224, 1).double()  # their pooling is for 7×7 alone
    with torch.no_grad():
        expected = theirs.double()(x)
        assert (ours.double()(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    done = convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "pytorchcv")
    assert done.architecture == name
    back, original = (read_state_dict(tmp_path / file).state_dict for file in ("back.pth", "theirs.pth"))
    assert back.keys() == original.keys() and all(torch.equal(back[key], original[key]) for key in original)


def test_the_activation_leaves_no_mark_and_is_compared(tmp_path):
    relu = trained("mobilenet_v1_050_relu")
    torch.save(relu.state_dict(), tmp_path / "bare.pth")  # named as timm's, which have ReLU6
    load_weights(create_backbone(SMALL, 5), tmp_path / "bare.pth")
    with pytest.raises(WeightsError, match="relu6=True.*Take 'mobilenet_v1_050' in place of 'mobilenet_v1_050_relu'"):
        load_weights(create_backbone("mobilenet_v1_050_relu", 5), tmp_path / "bare.pth")
    convert_file(tmp_path / "bare.pth", tmp_path / "said.pth", architecture="mobilenet_v1_050_relu")
    load_weights(create_backbone("mobilenet_v1_050_relu", 5), tmp_path / "said.pth")
    with pytest.raises(WeightsError, match="relu6=False"):
        load_weights(create_backbone(SMALL, 5), tmp_path / "said.pth")
    with pytest.raises(WeightsError, match="timm's MobileNet v1 has ReLU6"):
        convert_file(tmp_path / "said.pth", tmp_path / "no.pth", "timm")
    torch.save(trained("se_mobilenet_v1").state_dict(), tmp_path / "se.pth")
    with pytest.raises(WeightsError, match="timm's MobileNet v1 has no place for squeeze-and-excitation"):
        convert_file(tmp_path / "se.pth", tmp_path / "no.pth", "timm")
    convert_file(tmp_path / "bare.pth", tmp_path / "relu6.pth")
    with pytest.raises(WeightsError, match="pytorchcv's MobileNet has ReLU,"):
        convert_file(tmp_path / "relu6.pth", tmp_path / "no.pth", "pytorchcv")


def test_the_two_activations_are_two_functions():
    # else the tests around them would show nothing
    clipped, relu = create_backbone(SMALL, 5).eval(), trained("mobilenet_v1_050_relu").eval()
    clipped.load_state_dict(relu.state_dict())
    assert not torch.allclose(clipped(images()), relu(images()), rtol=0.1)


@pytest.mark.parametrize("name", [SMALL, "mobilenet_v1_050_relu"])
@pytest.mark.parametrize("overrides", [{}, {"norm": "GN"}, {"last_dilation": 2}], ids=str)
def test_insertion_leaves_the_logits_bit_for_bit(name, overrides):
    plain = trained(name, **overrides)
    twin = insert_se(copy.deepcopy(plain))
    assert twin.spec.name == f"se_{name}" and sum(site.gate is not None for site in twin.se_sites()) == 13
    x = images()
    for training in (False, True, False):  # last with the running statistics that the training pass left
        plain.train(training), twin.train(training)
        assert torch.equal(plain(x), twin(x))
    # The maps keep their numbers where the normalisation takes up the 2; behind a ReLU6 they are halved.
    for stage, tensor in plain.forward_features(x).items():
        factor = 0.5 if name == SMALL and stage != "stem" else 1
        assert torch.equal(tensor * factor, twin.forward_features(x)[stage]), stage


def test_a_relu6_network_without_classifier_takes_relu_gates_alone():
    plain = trained(classes=0)
    with pytest.raises(ValueError, match=r"blocks\.0\.0: it scales a map that is handed out; .* Use gate='relu'"):
        insert_se(copy.deepcopy(plain))
    twin = insert_se(copy.deepcopy(plain), SEConfig(gate="relu"))
    theirs = twin.eval().forward_features(images())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in plain.eval().forward_features(images()).items())
    # With plain ReLU there is the normalisation before the gate.
    relu = trained("mobilenet_v1_050_relu", classes=0).eval()
    theirs = insert_se(copy.deepcopy(relu)).eval().forward_features(images())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in relu.forward_features(images()).items())


def test_inside_a_stage_a_gate_is_taken_up_whether_there_is_a_classifier_or_not():
    plain = trained(classes=0, out_features=["stage4"])
    ends = ["blocks.3.5"]
    twin = insert_se(copy.deepcopy(plain), SEConfig(without=tuple(ends)))
    assert torch.equal(
        plain.eval().forward_features(images())["stage4"], twin.eval().forward_features(images())["stage4"]
    )
    assert [site.path for site in plain.se_sites() if isinstance(site.absorbers(), str)] == ends


@pytest.mark.parametrize("name", [SMALL, "mobilenet_v1_050_relu"])
def test_folding_what_was_inserted_gives_the_plain_network_back(name):
    plain, x = trained(name).double().eval(), images().double()
    twin = insert_se(copy.deepcopy(plain)).eval()
    report = fold_constant_gates(twin, [x], tolerance=0)
    assert len(report.folded) == 13 and twin.spec.name == name and twin.spec.se is None
    assert list(report.outputs) == ["logits"]
    assert torch.equal(twin(x), plain(x))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(twin.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("name", [SMALL, "mobilenet_v1_050_relu"])
def test_gates_that_are_another_constant_for_each_channel_fold_to_rounding(name):
    twin, x = trained(f"se_{name}").double().eval(), images().double()
    with torch.no_grad():
        for site in twin.se_sites():
            site.gate.fc2.weight.zero_()
        before = twin(x)
    report = fold_constant_gates(twin, [x], tolerance=1e-12)
    assert len(report.folded) == 13 and twin.spec.name == name
    assert (twin(x) - before).abs().max() <= TOLERANCE * before.abs().max()


def test_insertion_into_a_file_and_while_loading(tmp_path):
    plain = trained().eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    done = insert_se_into_file(tmp_path / "plain.pth", tmp_path / "se.safetensors")
    assert done.architecture == "se_mobilenet_v1_050" and done.largest_difference == 0
    assert "the next block's depthwise convolution has doubled weights" in done.note
    assert "the logits are what they were without; a map that a gate ends is halved" in done.note
    assert "cannot be written to timm" in done.timm
    network = create_backbone("se_mobilenet_v1_050", 5).eval()
    load_weights(network, tmp_path / "se.safetensors")
    assert torch.equal(network(images()), plain(images()))
    network = create_backbone("se_mobilenet_v1_050", 5).eval()
    load_weights_inserting_se(network, tmp_path / "plain.pth")
    assert torch.equal(network(images()), plain(images()))


@pytest.mark.parametrize("name", [f"se_{SMALL}", "se_mobilenet_v1_050_relu"])
def test_the_gate_is_the_blocks_own_and_acts_behind_the_activation(name):
    block = trained(name).eval().blocks[3][0]
    x = torch.rand(2, 128, 9, 9, generator=torch.Generator().manual_seed(0))
    gated, gate = block(x), block.se
    block.se = None
    assert torch.equal(gated, block(x) * gate(block(x)))


def test_a_bare_file_of_ours_with_se_says_nothing_of_its_images(tmp_path):
    torch.save(trained("se_mobilenet_v1_050").state_dict(), tmp_path / "bare.pth")
    report = load_weights(create_backbone("se_mobilenet_v1_050", 5), tmp_path / "bare.pth", preprocessing=IMAGENET_RGB)
    assert report.preprocessing is None and not report.warnings


@pytest.mark.parametrize("name", [f"se_{SMALL}", "se_mobilenet_v1_050_relu"])
def test_maps_are_as_announced_at_odd_sizes_and_do_not_depend_on_the_batch(name):
    # In float64: a matrix product is added up in another order where it has one row.
    network, x = trained(name).double().eval(), images().double()
    with torch.no_grad():
        maps = network.forward_features(x)
        single = network.forward_features(x[1:])
    for stage, (channels, stride) in network.feature_info.items():
        assert maps[stage].shape == (2, channels, math.ceil(75 / stride), math.ceil(101 / stride))
        assert torch.allclose(maps[stage][1:], single[stage], rtol=1e-9, atol=1e-9)
    dilated, x = trained(name, last_dilation=2).eval(), x.float()
    assert dilated.forward_features(x)["stage5"].shape == (2, 512, 5, 7) and dilated.feature_info["stage5"].stride == 16


def test_stages_behind_the_last_one_asked_for_are_not_built_and_frozen_ones_stay():
    network = create_backbone(f"se_{SMALL}", 0, out_features=["stage2", "stage3"], freeze_at=2)
    assert list(network.forward_features(images())) == ["stage2", "stage3"] and len(network.blocks) == 3
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in learning} == {"1", "2"} and not any("conv_stem" in name for name in learning)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in [network.bn1, *network.blocks[0].modules()])


@pytest.mark.parametrize("name", [f"se_{SMALL}", "se_mobilenet_v1_050_relu"])
def test_recomputation_changes_nothing(name):
    network = trained(name).train()
    again = copy.deepcopy(network)
    again.recompute = True
    for each in (network, again):
        each(images()).square().sum().backward()
    for (name, ours), theirs in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), again.buffers(), strict=True))


def test_the_first_weights_keep_the_size_of_the_maps():
    # A depthwise layer is initialised for the nine weights that a channel meets, and not for all of its channels.
    torch.manual_seed(0)
    network = create_backbone("mobilenet_v1", 5)
    for _, block in list(network.named_blocks())[2:]:
        assert block.conv_dw.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.2)


def test_no_branch_could_start_at_zero():
    with pytest.raises(ValueError, match="no residual branch"):
        create_backbone(SMALL, zero_init_last=True)
