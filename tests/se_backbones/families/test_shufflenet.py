"""ShuffleNet v1: its numbers, pytorchcv's weights, and gates on branches that are added or concatenated."""

import copy
import math

import pytest
import torch
from torch import nn

from engine.report.cost import count_multiply_adds
from se_backbones import SEConfig, create_backbone, insert_se
from se_backbones.errors import WeightsError
from se_backbones.families.shufflenet import shuffled
from se_backbones.preprocessing import IMAGENET_RGB
from se_backbones.surgery.fold import fold_constant_gates
from se_backbones.weights import load_weights, read_state_dict
from se_backbones.weights.convert import convert_file
from se_backbones.weights.inserting import insert_se_into_file
from tests.se_backbones.networks import TOLERANCE, images, parameters, randomised

PLAIN, SE = "shufflenet_v1_g3", "se_shufflenet_v1_g3"


def trained(name=PLAIN, classes=5, **overrides):
    return randomised(create_backbone(name, classes, **overrides))


def test_parameters_and_multiply_adds():
    assert (parameters(PLAIN), parameters(SE, se=SEConfig(bias=False)), parameters(SE)) == (
        1_865_728,
        2_476_144,
        2_484_533,
    )
    assert count_multiply_adds(create_backbone(PLAIN)) == 137_460_672
    assert count_multiply_adds(create_backbone(SE)) == 137_460_672 + 610_416


def test_the_shuffle_deals_out_the_groups():
    channels = torch.arange(12.0).view(1, 12, 1, 1)
    assert shuffled(channels, 3).flatten().tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_pytorchcv_weights_compute_the_same_and_are_written_back(tmp_path):
    models = pytest.importorskip(
        "pytorchcv.models.shufflenet", reason="the peer to compare with; pip install pytorchcv"
    )
    theirs = randomised(models.shufflenet_g3_w1(num_classes=7)).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = create_backbone(PLAIN, 7).eval()
    report = load_weights(ours, tmp_path / "theirs.pth", preprocessing=IMAGENET_RGB)
    assert report.layout == "pytorchcv" and not report.unaccounted and not report.missing
    assert len(report.loaded) == len(theirs.state_dict())
    x = images(224, 224, 1).double()  # their pooling is for 7×7 alone
    kept = {}
    for stage, module in (("stem", "init_block"), ("stage2", "stage1"), ("stage3", "stage2"), ("stage4", "stage3")):
        hook = theirs.features.get_submodule(module).register_forward_hook
        hook(lambda _module, _inputs, output, stage=stage: kept.__setitem__(stage, output))
    with torch.no_grad():
        expected, maps = theirs.double()(x), ours.double().forward_features(x)
        assert (ours(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    for stage, tensor in kept.items():
        assert (maps[stage] - tensor).abs().max() <= TOLERANCE * tensor.abs().max(), stage
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    done = convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "pytorchcv")
    assert done.architecture == PLAIN
    back, original = (read_state_dict(tmp_path / file).state_dict for file in ("back.pth", "theirs.pth"))
    assert back.keys() == original.keys() and all(torch.equal(back[key], original[key]) for key in original)


@pytest.mark.parametrize("overrides", [{}, {"norm": "GN"}, {"classes": 0}], ids=str)
@pytest.mark.parametrize("se", [SEConfig(), SEConfig(gate="relu", reduction=4), SEConfig(stages=("stage3",))], ids=str)
def test_insertion_leaves_logits_and_maps_bit_for_bit(se, overrides):
    plain = trained(**overrides)
    twin = insert_se(copy.deepcopy(plain), se)
    assert twin.spec.name == SE and sum(site.gate is not None for site in twin.se_sites()) == (8 if se.stages else 16)
    x = images()
    for training in (False, True, False):  # last with the running statistics that the training pass left
        plain.train(training), twin.train(training)
        theirs = twin.forward_features(x)
        for stage, tensor in plain.forward_features(x).items():
            assert torch.equal(theirs[stage], tensor), stage
        if plain.num_classes:
            assert torch.equal(plain(x), twin(x))


def test_folding_what_was_inserted_gives_the_plain_network_back():
    plain, x = trained().double().eval(), images().double()
    twin = insert_se(copy.deepcopy(plain)).eval()
    report = fold_constant_gates(twin, [x], tolerance=0)
    assert len(report.folded) == 16 and twin.spec.name == PLAIN and twin.spec.se is None
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(twin.parameters(), plain.parameters(), strict=True))
    assert torch.equal(twin(x), plain(x))


def test_gates_that_are_another_constant_for_each_channel_fold_to_rounding():
    twin, x = trained(SE).double().eval(), images().double()
    with torch.no_grad():
        for site in twin.se_sites():
            site.gate.fc2.weight.zero_()
        before = twin(x)
    report = fold_constant_gates(twin, [x], tolerance=1e-12)
    assert len(report.folded) == 16 and twin.spec.name == PLAIN
    assert (twin(x) - before).abs().max() <= TOLERANCE * before.abs().max()


def test_insertion_into_a_file(tmp_path):
    plain = trained().eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    assert read_state_dict(tmp_path / "plain.pth").layout == "ours"
    done = insert_se_into_file(tmp_path / "plain.pth", tmp_path / "se.safetensors")
    assert done.architecture == SE and done.largest_difference == 0
    network = create_backbone(SE, 5).eval()
    load_weights(network, tmp_path / "se.safetensors")
    assert torch.equal(network(images()), plain(images()))
    with pytest.raises(WeightsError, match="pytorchcv's ShuffleNet has no place for squeeze-and-excitation"):
        convert_file(tmp_path / "se.safetensors", tmp_path / "no.pth", "pytorchcv")


def test_the_gate_acts_on_the_branch_alone():
    network = trained(SE).eval()
    unit, x = network.stage2[0], torch.rand(2, 24, 9, 9, generator=torch.Generator().manual_seed(0))
    before = unit(x)
    with torch.no_grad():
        unit.se.fc2.weight.zero_()
        unit.se.fc2.bias.fill_(-1e4)  # the gate closes
        closed = unit(x)
    assert torch.equal(closed[:, -24:], before[:, -24:]) and not closed[:, :-24].any() and before[:, :-24].any()


@pytest.mark.parametrize("index, channels", [(0, 24), (1, 240)])
def test_the_gate_sees_the_branch_behind_its_last_normalisation(index, channels):
    unit = trained(SE).eval().stage2[index]
    seen = []
    unit.bn3.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    unit.se.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].clone()))
    unit(torch.rand(2, channels, 9, 9, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(*seen)


def test_maps_are_as_announced_at_odd_sizes_and_do_not_depend_on_the_batch():
    network = trained(SE).eval()
    x = images()
    with torch.no_grad():
        maps, single = network.forward_features(x), network.forward_features(x[1:])
    for stage, (channels, stride) in network.feature_info.items():
        assert maps[stage].shape == (2, channels, math.ceil(75 / stride), math.ceil(101 / stride))
        assert torch.allclose(maps[stage][1:], single[stage], rtol=1e-5, atol=1e-5)


def test_stages_behind_the_last_one_asked_for_are_not_built_and_frozen_ones_stay():
    network = create_backbone(SE, 0, out_features=["stem", "stage3"], freeze_at=2)
    assert list(network.forward_features(images())) == ["stem", "stage3"] and not hasattr(network, "stage4")
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad} == {"stage3"}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in [network.bn1, *network.stage2.modules()])


def test_recomputation_changes_nothing():
    network = trained(SE).train()
    again = copy.deepcopy(network)
    again.recompute = True
    for each in (network, again):
        each(images()).square().sum().backward()
    for (name, ours), theirs in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), again.buffers(), strict=True))


def test_zero_init_starts_the_added_branches_at_zero_and_no_other():
    network = create_backbone(PLAIN, zero_init_last=True)
    units = [unit for _, unit in network.named_blocks() if hasattr(unit, "bn3")]
    assert [bool(unit.bn3.weight.any()) for unit in units] == [unit.stride == 2 for unit in units]
    network.train()(images()).sum().backward()
    assert all(unit.bn3.weight.grad.any() for unit in units)


def test_the_last_stage_is_not_dilated():
    with pytest.raises(ValueError, match="cannot be dilated"):
        create_backbone(PLAIN, last_dilation=2)
