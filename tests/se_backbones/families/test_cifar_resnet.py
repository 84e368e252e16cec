"""ResNets for CIFAR: their numbers, pytorchcv's weights, and gates in pre-activation units."""

import copy
import math
from functools import partial

import pytest
import torch

from engine.report.cost import count_multiply_adds
from se_backbones import SEConfig, create_backbone, find_spec, fold_constant_gates, insert_se, list_backbones
from se_backbones.errors import WeightsError
from se_backbones.families.cifar.layouts import CIFAR_RGB
from se_backbones.preprocessing import IMAGENET_RGB
from se_backbones.weights import load_weights, read_state_dict
from se_backbones.weights.convert import convert_file
from se_backbones.weights.inserting import load_weights_inserting_se
from se_backbones.weights.shapes import describe, guess_architecture
from tests.se_backbones import networks
from tests.se_backbones.networks import TOLERANCE, parameters

ROWS = [name for name in list_backbones() if find_spec(name).family == "cifar_resnet"]
FORMS = ["resnet20_cifar", "preresnet20_cifar", "preresnet20_cifar_bare_stem", "preresnet164_cifar", "wrn16_8_cifar"]


randomised = partial(networks.randomised, gain=1.0)


def trained(name, classes=5, **overrides):
    return randomised(create_backbone(name, classes, **overrides))


def images(height=32, width=32, count=2, seed=1):
    return networks.images(height, width, count, seed)


@pytest.mark.parametrize(
    "name, classes, plain, no_bias, bias, gates",
    [
        ("preresnet110_cifar", 10, 1_730_554, 1_742_650, 1_744_792, 54),
        ("preresnet110_cifar", 100, 1_736_404, 1_748_500, 1_750_642, 54),
        ("preresnet164_cifar", 10, 1_703_290, 1_896_826, 1_905_394, 54),
        ("preresnet164_cifar", 100, 1_726_420, 1_919_956, 1_928_524, 54),
        ("wrn16_8_cifar", 10, 10_961_370, 11_047_386, 11_049_290, 6),
        ("wrn16_8_cifar", 100, 11_007_540, 11_093_556, 11_095_460, 6),
    ],
)
def test_parameters_of_the_papers_networks(name, classes, plain, no_bias, bias, gates):
    counts = [parameters(name, classes)]
    counts += [parameters(f"se_{name}", classes, se=SEConfig(bias=with_bias)) for with_bias in (False, True)]
    assert counts == [plain, no_bias, bias]
    assert len(find_spec(name).sites()) == gates


def test_parameters_of_pytorchcvs_networks():
    # model_metainfos.csv of pytorchcv 0.0.74
    for name, count in {
        "resnet20_cifar": 272_474,
        "resnet110_cifar": 1_730_714,
        "se_resnet20_cifar": 274_847,
        "se_resnet110_cifar": 1_744_952,
        "preresnet110_cifar_bare_stem": 1_730_522,
        "se_preresnet110_cifar_pytorchcv": 1_744_664,
        "wrn16_10_cifar": 17_116_634,
        "wrn28_10_cifar": 36_479_194,
    }.items():
        assert parameters(name) == count, name


@pytest.mark.parametrize(
    "name, plain, fcs",
    [
        ("preresnet110_cifar", 253_149_824, 12_096),
        ("preresnet164_cifar", 247_646_720, 193_536),
        ("wrn16_8_cifar", 1_548_145_664, 86_016),
    ],
)
def test_multiply_adds(name, plain, fcs):
    assert [count_multiply_adds(create_backbone(n), 32) for n in (name, f"se_{name}")] == [plain, plain + fcs]


# A peer's module, what its function takes, and our row.
PEERS = [
    ("resnet", {"blocks": 20, "bottleneck": False}, "resnet20_cifar"),
    ("seresnet", {"blocks": 20, "bottleneck": False}, "se_resnet20_cifar"),
    ("preresnet", {"blocks": 20, "bottleneck": False}, "preresnet20_cifar_bare_stem"),
    ("preresnet", {"blocks": 164, "bottleneck": True}, "preresnet164_cifar_bare_stem"),
    ("sepreresnet", {"blocks": 20, "bottleneck": False}, "se_preresnet20_cifar_pytorchcv"),
    ("sepreresnet", {"blocks": 110, "bottleneck": False}, "se_preresnet110_cifar_pytorchcv"),
    ("wrn", {"blocks": 16, "width_factor": 8}, "wrn16_8_cifar"),
]


@pytest.mark.parametrize("peer, arguments, name", PEERS, ids=[peer[-1] for peer in PEERS])
def test_pytorchcv_weights_compute_the_same_and_are_written_back(peer, arguments, name, tmp_path):
    models = pytest.importorskip(
        f"pytorchcv.models.{peer}_cifar", reason="the peer to compare with; pip install --no-deps pytorchcv"
    )
    theirs = randomised(getattr(models, f"get_{peer}_cifar")(num_classes=10, **arguments)).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = create_backbone(name).eval()
    report = load_weights(ours, tmp_path / "theirs.pth", preprocessing=CIFAR_RGB)
    assert report.layout == "pytorchcv" and not report.unaccounted and not report.missing and not report.unexpected
    x = images(count=1).double()  # their pooling is for 8×8 alone
    with torch.no_grad():
        expected = theirs.double()(x)
        assert (ours.double()(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    done = convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "pytorchcv")
    assert done.architecture == name
    back, original = (read_state_dict(tmp_path / file).state_dict for file in ("back.pth", "theirs.pth"))
    assert back.keys() == original.keys() and all(torch.equal(back[key], original[key]) for key in original)
    with pytest.raises(WeightsError, match="published for pytorchcv"):
        load_weights(create_backbone(name), tmp_path / "theirs.pth", preprocessing=IMAGENET_RGB)


def test_every_row_is_told_from_its_tensors():
    for name in ROWS:
        with torch.device("meta"):
            state = create_backbone(name).state_dict()
        assert guess_architecture(state) == name


def test_a_part_of_a_network_is_of_the_rows_that_have_it_and_of_no_other():
    with torch.device("meta"):
        state = create_backbone("se_preresnet20_cifar", 0, out_features=["stage2"]).state_dict()
    shape = describe(state)
    assert shape.rows == ("preresnet20_cifar", "se_preresnet20_cifar", "se_preresnet20_cifar_pytorchcv")
    assert not shape.complete and shape.num_classes == 0 and shape.se_hidden == (1, 2, None)


def test_pytorchcv_could_not_build_these(tmp_path):
    for name, why in {
        "preresnet20_cifar": "pytorchcv's PreResNet has none of the normalisations behind the first convolution",
        "se_preresnet20_cifar": "pytorchcv's SE-PreResNet has one .* and none before the pooling",
        "se_preresnet20_cifar_bare_stem": "pytorchcv's SE-PreResNet has one .* and none before the pooling",
        "se_wrn16_8_cifar": "Wide ResNets have no place",
    }.items():
        torch.save(create_backbone(name).state_dict(), tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError, match=why):
            convert_file(tmp_path / f"{name}.pth", tmp_path / "no.pth", "pytorchcv")
    for se, why in {
        SEConfig(reduction=8): "reduction is 8",
        SEConfig(bias=False): "no biases",
        SEConfig(stages=(1, 3)): "only some of its units",
    }.items():
        state = create_backbone("se_resnet20_cifar", se=se).state_dict()
        torch.save(state, tmp_path / "gates.pth")
        with pytest.raises(WeightsError, match=why):
            convert_file(tmp_path / "gates.pth", tmp_path / "no.pth", "pytorchcv")


def test_weights_of_another_form_are_refused_by_name(tmp_path):
    torch.save(trained("se_preresnet20_cifar_pytorchcv").state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(
        WeightsError, match="the file holds the tensors of se_preresnet20_cifar_pytorchcv .* of se_preresnet20_cifar "
    ):
        load_weights(create_backbone("se_preresnet20_cifar", 5), tmp_path / "theirs.pth")
    torch.save(trained("preresnet20_cifar").state_dict(), tmp_path / "normalised.pth")
    with pytest.raises(
        WeightsError, match="the tensors of preresnet20_cifar, and the model the tensors of preresnet20_cifar_bare_stem"
    ):
        load_weights(create_backbone("preresnet20_cifar_bare_stem", 5), tmp_path / "normalised.pth")


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("placement", ["standard", "pre", "inside"])
def test_insertion_leaves_every_map_bit_for_bit_and_folding_gives_the_plain_network_back(name, placement, monkeypatch):
    networks.change_rows(monkeypatch, networks.shallow)
    plain = trained(name)
    twin = insert_se(copy.deepcopy(plain), SEConfig(placement=placement))
    assert twin.spec.name == f"se_{name}" and all(site.gate is not None for site in twin.se_sites())
    x = images(17, 26)
    for training in (False, True, False):  # last with the running statistics that the training pass left
        theirs, ours = (network.train(training).forward_features(x) for network in (plain, twin))
        assert all(torch.equal(ours[stage], theirs[stage]) for stage in theirs)
        assert torch.equal(plain(x), twin(x))
    report = fold_constant_gates(twin, [x], tolerance=0)
    assert len(report.folded) == len(plain.se_sites()) and twin.spec == plain.spec
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(twin.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("placement", ["post", "identity"])
def test_a_relu_gate_is_inserted_where_no_weight_could_take_up_a_half(placement):
    plain = trained("preresnet20_cifar").eval()
    with pytest.raises(ValueError, match="Use the placement"):
        insert_se(copy.deepcopy(plain), SEConfig(placement=placement))
    twin = insert_se(copy.deepcopy(plain), SEConfig(placement=placement, gate="relu"))
    assert torch.equal(twin(images()), plain(images()))
    # A shortcut with a convolution could be folded.
    foldable = [site.path for site in twin.se_sites() if not isinstance(site.absorbers(), str)]
    assert foldable == (["stage2.unit1", "stage3.unit1"] if placement == "identity" else [])


@pytest.mark.parametrize("name", ["se_preresnet20_cifar", "se_preresnet164_cifar"])
@pytest.mark.parametrize("placement", ["standard", "pre", "inside"])
def test_gates_that_are_another_constant_for_each_channel_fold_to_rounding(name, placement):
    config = SEConfig(placement=placement)
    twin, x = trained(name, se=config).double().eval(), images(16, 16).double()
    with torch.no_grad():
        for site in twin.se_sites():
            site.gate.fc2.weight.zero_()
        before = twin(x)
    report = fold_constant_gates(twin, [x], tolerance=1e-12)
    assert len(report.folded) == len(twin.se_sites()) and twin.spec.name == name.removeprefix("se_")
    assert (twin(x) - before).abs().max() <= TOLERANCE * before.abs().max()


def test_where_the_gates_of_a_pre_activation_unit_stand():
    """Each gate sees the map that its placement names, and nothing else is scaled."""
    name, x = "se_preresnet20_cifar", images(16, 16).double()
    for placement in ("standard", "pre", "post", "identity", "inside"):
        network = trained(name, se=SEConfig(placement=placement)).double().eval()
        unit = network.stage2.unit1
        y = network.forward_features(x)["stage1"]
        active = torch.relu(unit.bn1(y))
        shortcut = unit.downsample(active)
        start = active * unit.se(active) if placement == "pre" else active
        inner = torch.relu(unit.bn2(unit.conv1(start)))
        branch = unit.conv2(inner * unit.se(inner) if placement == "inside" else inner)
        gated = {
            "standard": lambda b, s, u: b * u.se(b) + s,
            "identity": lambda b, s, u: b + s * u.se(s),
            "post": lambda b, s, u: (b + s) * u.se(b + s),
        }.get(placement, lambda b, s, u: b + s)
        assert torch.allclose(unit(y), gated(branch, shortcut, unit), rtol=1e-10, atol=1e-10), placement


def test_plain_weights_of_pytorchcv_get_gates_while_they_are_loaded(tmp_path):
    models = pytest.importorskip("pytorchcv.models.preresnet_cifar", reason="pip install --no-deps pytorchcv")
    theirs = randomised(models.preresnet20_cifar10()).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    network = create_backbone("se_preresnet20_cifar_bare_stem").eval()
    load_weights_inserting_se(network, tmp_path / "theirs.pth")
    plain = create_backbone("preresnet20_cifar_bare_stem").eval()
    load_weights(plain, tmp_path / "theirs.pth")
    assert torch.equal(network(images()), plain(images()))


@pytest.mark.parametrize("name", ["se_resnet20_cifar", "se_preresnet20_cifar", "se_preresnet20_cifar_bare_stem",
                                  "se_preresnet20_cifar_pytorchcv"])  # fmt: skip
def test_maps_are_as_announced_at_odd_sizes_and_do_not_depend_on_the_batch(name):
    network = trained(name).eval()
    x = images(27, 33)
    with torch.no_grad():
        maps, single = network.forward_features(x), network.forward_features(x[1:])
    assert [info.stride for info in network.feature_info.values()] == [1, 1, 2, 4]
    for stage, (channels, stride) in network.feature_info.items():
        assert maps[stage].shape == (2, channels, math.ceil(27 / stride), math.ceil(33 / stride))
        assert torch.allclose(maps[stage][1:], single[stage], rtol=1e-4, atol=1e-4)
    # The classifier is one layer behind the mean over the last map.
    assert torch.equal(network(x), network.fc(maps["stage3"].mean((2, 3))))
    assert (maps["stage3"].min() >= 0) == (not name.endswith("pytorchcv"))


def test_stages_are_chosen_by_number_frozen_and_left_out():
    network = create_backbone("se_preresnet20_cifar", 0, se=SEConfig(stages=(1, 3)), freeze_at=2)
    assert {site.stage for site in network.se_sites() if site.gate is not None} == {"stage1", "stage3"}
    learning = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"stage2", "stage3", "bn_last"}
    part = create_backbone("se_preresnet20_cifar", 0, out_features=["stage2"])
    assert list(part.forward_features(images())) == ["stage2"] and not hasattr(part, "bn_last")


@pytest.mark.parametrize("name", ["se_resnet20_cifar", "se_preresnet20_cifar"])
def test_recomputation_changes_nothing(name):
    network = trained(name).train()
    again = copy.deepcopy(network)
    again.recompute = True
    for each in (network, again):
        each(images()).square().sum().backward()
    for (parameter, ours), theirs in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), parameter
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), again.buffers(), strict=True))


def test_branches_that_start_at_zero():
    network = create_backbone("resnet20_cifar", zero_init_last=True)
    assert all(not site.owner.bn2.weight.any() for site in network.se_sites())
    with pytest.raises(ValueError, match="no residual branch that ends in a normalisation"):
        create_backbone("preresnet20_cifar", zero_init_last=True)
