"""Shake-Shake: its numbers, the random mix, pytorchcv's weights, and the two places of the gate."""

import copy
import math
from functools import partial

import pytest
import torch

from engine.report.cost import count_multiply_adds
from se_backbones import SEConfig, create_backbone, find_spec, fold_constant_gates, insert_se, list_backbones
from se_backbones.errors import WeightsError
from se_backbones.families.cifar.layouts import CIFAR_RGB
from se_backbones.families.cifar.shake import ShiftedShortcut, mix
from se_backbones.weights import load_weights, read_state_dict
from se_backbones.weights.convert import convert_file
from se_backbones.weights.inserting import insert_se_into_file, load_weights_inserting_se
from se_backbones.weights.shapes import guess_architecture
from tests.se_backbones import networks
from tests.se_backbones.networks import TOLERANCE, parameters

SMALL, EVEN = "shakeshake26_2x32d_cifar", "shakeeven29_2x4x64d_cifar"


randomised = partial(networks.randomised, gain=1.0)


def trained(name=SMALL, classes=5, **overrides):
    return randomised(create_backbone(name, classes, **overrides))


def images(height=16, width=16, count=2, seed=1):
    return networks.images(height, width, count, seed)


@pytest.mark.parametrize(
    "name, plain, branch, behind_mix, gates",
    [
        ("shakeshake26_2x96d_cifar", 26_192_922, (26_386_458, 26_392_170), (26_289_690, 26_292_546), (24, 12)),
        (EVEN, 34_529_700, (35_561_892, 35_573_316), (35_045_796, 35_051_508), (18, 9)),
    ],
)
def test_parameters_of_the_papers_networks(name, plain, branch, behind_mix, gates):
    assert parameters(name) == plain
    for row, counts, number in zip((f"se_{name}", f"se_{name}_mix"), (branch, behind_mix), gates, strict=True):
        assert (parameters(row, se=SEConfig(bias=False)), parameters(row)) == counts
        assert len(find_spec(row).sites()) == number


@pytest.mark.parametrize("name, plain", [("shakeshake26_2x96d_cifar", 3_776_892_672), (EVEN, 5_387_358_208)])
def test_multiply_adds(name, plain):
    # 3.777 and 5.387 thousand millions; those of the gates are their weights.
    assert count_multiply_adds(create_backbone(name), 32) == plain
    gates = parameters(f"se_{name}_mix", se=SEConfig(bias=False)) - parameters(name)
    assert count_multiply_adds(create_backbone(f"se_{name}_mix"), 32) == plain + gates


# --- the mix ---


def test_each_image_has_coefficients_of_its_own_and_the_gradient_others():
    first, second = torch.ones(64, 3, 2, 2, requires_grad=True), torch.zeros(64, 3, 2, 2, requires_grad=True)
    torch.manual_seed(0)
    mixed = mix(first, second, True, True)
    mixed.sum().backward()
    alpha, beta = mixed[:, 0, 0, 0], first.grad[:, 0, 0, 0]
    for coefficient in (alpha, beta):
        assert coefficient.unique().numel() == 64 and 0 <= coefficient.min() and coefficient.max() < 1
        assert 0.35 < coefficient.mean() < 0.65
    assert torch.equal(mixed, alpha[:, None, None, None].expand_as(mixed))
    assert torch.equal(first.grad, beta[:, None, None, None].expand_as(mixed))
    assert torch.allclose(first.grad + second.grad, torch.ones(()))
    assert (alpha - beta).abs().mean() > 0.1
    # The same numbers of the generator, the same mix.
    torch.manual_seed(0)
    assert torch.equal(mix(first, second, True, True), mixed)
    assert not torch.equal(mix(first, second, True, True), mixed)


def test_an_even_gradient_is_halved_and_evaluation_takes_the_mean():
    first, second = torch.randn(2, 8, 3, 4, 4, requires_grad=True).unbind()
    first.retain_grad(), second.retain_grad()
    mix(first, second, True, False).sum().backward()
    assert (first.grad == 0.5).all() and (second.grad == 0.5).all()
    state = torch.get_rng_state()
    assert torch.equal(mix(first, second, False, True), (first + second) / 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mix_keeps_the_type_of_half_precision_maps():
    first = torch.ones(4, 3, 2, 2, dtype=torch.bfloat16)
    assert mix(first, first, True, True).dtype == torch.bfloat16


@pytest.mark.parametrize("name", [SMALL, f"se_{SMALL}_mix", f"se_{EVEN}"])
def test_training_is_random_evaluation_is_not_and_recomputation_draws_the_same(name):
    network = trained(name, 0, out_features=["stage2"]).train()
    again = copy.deepcopy(network)
    again.recompute = True
    x, outputs = images(), []
    for each in (network, again):
        torch.manual_seed(3)
        outputs.append(each.forward_features(x)["stage2"])
        outputs[-1].square().mean().backward()
    assert torch.equal(*outputs)
    for (parameter, ours), theirs in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), parameter
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), again.buffers(), strict=True))
    for training in (True, False):
        first, second = (network.train(training).forward_features(x)["stage2"] for _ in range(2))
        assert torch.equal(first, second) is not training


@pytest.mark.parametrize("training", [False, True])
def test_a_unit_compiles_without_a_break(training):
    torch._dynamo.reset()
    unit = trained(f"se_{SMALL}").double().stage2.unit1.train(training)
    x, results = torch.randn(2, 32, 8, 8, dtype=torch.float64), []
    for each in (unit, torch.compile(unit, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(3)
        unit.zero_grad()
        out = each(x)
        out.square().sum().backward()
        results.append((out, unit.branch1.conv1.weight.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10)


def test_the_second_half_of_a_shortcut_sees_what_the_first_leaves_out():
    shortcut = ShiftedShortcut(1, 2, 2, "BN").eval()
    with torch.no_grad():
        shortcut.conv1.weight.fill_(1), shortcut.conv2.weight.fill_(1)
        x = torch.arange(1.0, 31.0).view(1, 1, 5, 6)
        out = shortcut(x) * math.sqrt(1 + shortcut.bn.eps)
    assert torch.allclose(out[0, 0], x[0, 0, ::2, ::2])
    assert not out[0, 1, 0].any() and not out[0, 1, :, 0].any()
    assert torch.allclose(out[0, 1, 1:, 1:], x[0, 0, 1::2, 1::2][:, :2])


def test_where_the_relu_stands():
    """The author's form keeps the sum unrectified on the shortcut; the other rectifies it. Same tensors."""
    first, behind = trained(SMALL).eval(), create_backbone(f"{SMALL}_pytorchcv", 5).eval()
    behind.load_state_dict(first.state_dict())
    with torch.no_grad():
        ours, theirs = first.forward_features(images()), behind.forward_features(images())
    assert [ours[stage].min() < 0 for stage in ours] == [True, True, True, False]
    assert all(tensor.min() >= 0 for tensor in theirs.values())
    assert torch.equal(torch.relu(ours["stem"]), theirs["stem"])
    assert not torch.allclose(ours["stage3"], theirs["stage3"], rtol=0.1)
    even = trained(EVEN).eval()
    assert all(tensor.min() >= 0 for tensor in even.forward_features(images()).values())


# --- weights ---


def test_pytorchcv_weights_compute_the_same_and_are_written_back(tmp_path):
    models = pytest.importorskip(
        "pytorchcv.models.shakeshakeresnet_cifar", reason="the peer to compare with; pip install --no-deps pytorchcv"
    )
    theirs = randomised(models.shakeshakeresnet26_2x32d_cifar10()).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    name = f"{SMALL}_pytorchcv"
    ours = create_backbone(name).eval()
    report = load_weights(ours, tmp_path / "theirs.pth", preprocessing=CIFAR_RGB)
    assert report.layout == "pytorchcv" and not report.unaccounted and not report.missing and not report.unexpected
    x = images(32, 32).double()  # their pooling is for 8×8 alone
    with torch.no_grad():
        expected = theirs.double()(x)
        assert (ours.double()(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    done = convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "pytorchcv")
    assert done.architecture == name
    back, original = (read_state_dict(tmp_path / file).state_dict for file in ("back.pth", "theirs.pth"))
    assert back.keys() == original.keys() and all(torch.equal(back[key], original[key]) for key in original)
    with pytest.raises(WeightsError, match=f"relu_first=False.*Take '{name}' in place of '{SMALL}'"):
        load_weights(create_backbone(SMALL), tmp_path / "theirs.pth")


def test_pytorchcv_could_not_build_these(tmp_path):
    for name, why in {
        SMALL: "ReLU behind the addition",
        EVEN: "other bottlenecks",
        f"se_{SMALL}_pytorchcv": "no place for squeeze-and-excitation",
    }.items():
        convert = {"architecture": name} if "pytorchcv" in name else {}
        torch.save(create_backbone(name).state_dict(), tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError, match=why):
            convert_file(tmp_path / f"{name}.pth", tmp_path / "no.pth", "pytorchcv", **convert)


def test_the_place_of_the_gates_is_told_from_the_tensors(tmp_path):
    names = [name for name in list_backbones() if find_spec(name).family == "shake_shake" and "pytorchcv" not in name]
    for name in names:
        with torch.device("meta"):
            assert guess_architecture(create_backbone(name).state_dict()) == name
    torch.save(trained(f"se_{SMALL}").state_dict(), tmp_path / "branch.pth")
    with pytest.raises(
        WeightsError, match=f"the file holds the tensors of se_{SMALL} .*, and the model the tensors of se_{SMALL}_mix"
    ):
        load_weights(create_backbone(f"se_{SMALL}_mix", 5), tmp_path / "branch.pth")


# --- gates ---


@pytest.mark.parametrize("name", [SMALL, f"{SMALL}_pytorchcv", EVEN])
def test_insertion_leaves_every_map_bit_for_bit_and_folding_gives_the_plain_network_back(name):
    plain = trained(name)
    twin = insert_se(copy.deepcopy(plain))
    assert twin.spec.name == f"se_{name}" and all(site.gate is not None for site in twin.se_sites())
    compare(plain, twin)
    report = fold_constant_gates(twin, [images()], tolerance=0)
    assert len(report.folded) == len(plain.se_sites()) and twin.spec == plain.spec
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(twin.parameters(), plain.parameters(), strict=True))


def test_behind_the_mix_both_branches_take_up_the_gate(tmp_path):
    plain = trained()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    twin = create_backbone(f"se_{SMALL}_mix", 5)
    load_weights_inserting_se(twin, tmp_path / "plain.pth")
    compare(plain, twin)
    report = fold_constant_gates(twin, [images()], tolerance=0)
    assert len(report.folded) == 12 and twin.spec.se is None
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(twin.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("name", [SMALL, f"{SMALL}_pytorchcv"])
def test_insertion_into_a_file(name, tmp_path):
    torch.save(trained(name).state_dict(), tmp_path / "plain.pth")
    done = insert_se_into_file(tmp_path / "plain.pth", tmp_path / "se.safetensors", architecture=name)
    assert done.architecture == f"se_{name}" and done.largest_difference == 0 and done.largest_value > 0
    load_weights(create_backbone(f"se_{name}", 5), tmp_path / "se.safetensors")


def compare(plain, twin):
    for training in (False, True, False):  # last with the running statistics that the training pass left
        maps = []
        for network in (plain, twin):
            torch.manual_seed(5)
            maps.append(network.train(training).forward_features(images(15, 22)))
        assert all(torch.equal(maps[0][stage], maps[1][stage]) for stage in maps[0])


@pytest.mark.parametrize("name", [f"se_{SMALL}", f"se_{SMALL}_mix"])
def test_gates_that_are_another_constant_for_each_channel_fold_to_rounding(name):
    twin, x = trained(name).double().eval(), images().double()
    with torch.no_grad():
        for site in twin.se_sites():
            site.gate.fc2.weight.zero_()
        before = twin(x)
    report = fold_constant_gates(twin, [x], tolerance=1e-12)
    assert len(report.folded) == len(find_spec(name).sites()) and twin.spec.se is None
    assert (twin(x) - before).abs().max() <= TOLERANCE * before.abs().max()


def test_where_the_gates_act():
    x = torch.randn(2, 32, 6, 6, dtype=torch.float64)
    for name in (f"se_{SMALL}", f"se_{SMALL}_mix"):
        unit = trained(name).double().eval().stage1.unit2
        branches = []
        for branch in (unit.branch1, unit.branch2):
            y = branch.bn2(branch.conv2(torch.relu(branch.bn1(branch.conv1(torch.relu(x))))))
            branches.append(y * branch.se(y) if hasattr(branch, "se") else y)
        mixed = (branches[0] + branches[1]) / 2
        expected = x + (mixed * unit.se(mixed) if name.endswith("_mix") else mixed)
        assert torch.allclose(unit(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [f"se_{SMALL}", f"se_{SMALL}_mix", f"se_{EVEN}"])
def test_maps_are_as_announced_at_odd_sizes_and_do_not_depend_on_the_batch(name):
    network = trained(name).eval()
    x = images(27, 33)
    with torch.no_grad():
        maps, single = network.forward_features(x), network.forward_features(x[1:])
    assert [info.stride for info in network.feature_info.values()] == [1, 1, 2, 4]
    for stage, (channels, stride) in network.feature_info.items():
        assert maps[stage].shape == (2, channels, math.ceil(27 / stride), math.ceil(33 / stride))
        assert torch.allclose(maps[stage][1:], single[stage], rtol=1e-4, atol=1e-4)
    assert torch.equal(network(x), network.fc(maps["stage3"].mean((2, 3))))


def test_stages_are_chosen_by_number_frozen_and_left_out():
    network = create_backbone(f"se_{SMALL}", 0, se=SEConfig(stages=(1, 3)), freeze_at=2)
    assert {site.stage for site in network.se_sites() if site.gate is not None} == {"stage1", "stage3"}
    assert {n.split(".")[0] for n, p in network.named_parameters() if p.requires_grad} == {"stage2", "stage3"}
    part = create_backbone(f"se_{SMALL}", 0, out_features=["stage1", "stage2"])
    assert list(part.forward_features(images())) == ["stage1", "stage2"] and not hasattr(part, "stage3")


@pytest.mark.parametrize("name", [SMALL, f"se_{SMALL}_mix"])
def test_branches_that_start_at_zero(name):
    network = create_backbone(name, zero_init_last=True)
    for unit in network.stage2:
        assert not unit.branch1.bn2.weight.any() and not unit.branch2.bn2.weight.any()
        assert unit.branch1.bn1.weight.all()
