"""VGG-16: its numbers, others' weights with biases before a normalisation and without, gates behind ReLUs."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from classification.cam import class_activation_maps
from se_backbones import SEConfig, create_backbone, find_spec, fold_constant_gates, insert_se, registry
from se_backbones.errors import WeightsError
from se_backbones.layers.norm import FrozenBatchNorm2d
from se_backbones.preprocessing import IMAGENET_RGB
from se_backbones.registry import shapes_of
from se_backbones.weights import guess_architecture, load_weights, read_state_dict
from se_backbones.weights.convert import convert_file
from se_backbones.weights.inserting import insert_se_into_file, load_weights_inserting_se
from tests.se_backbones import networks
from tests.se_backbones.networks import TOLERANCE, images, multiply_adds, parameters, replace_rows

WHOLE = registry.family_of(find_spec("vgg16"))
HIDDEN = 16  # in place of 4096: a file of 60 MB instead of 550


@pytest.fixture(autouse=True)
def narrow_rows(monkeypatch):
    """The family's rows have a narrow classifier: ``narrow_vgg16``, …."""
    narrow = tuple(replace(r, name=f"narrow_{r.name}", hyper=replace(r.hyper, hidden=HIDDEN)) for r in WHOLE.rows)
    replace_rows(monkeypatch, WHOLE, narrow)


randomised = partial(networks.randomised, scales=(0.5, 1.5))


def trained(name="narrow_vgg16", classes=5, **overrides):
    return randomised(create_backbone(name, classes, **overrides)).eval()


def torchvision_vgg(classes=7):
    vgg = pytest.importorskip("torchvision.models.vgg", reason="the peer to compare with; pip install torchvision")
    theirs = vgg.VGG(vgg.make_layers(vgg.cfgs["D"], batch_norm=True), init_weights=False)
    for place, layer in ((0, (512 * 49, HIDDEN)), (3, (HIDDEN, HIDDEN)), (6, (HIDDEN, classes))):
        theirs.classifier[place] = nn.Linear(*layer)
    return randomised(theirs).eval()


@pytest.fixture
def published(tmp_path):
    """torchvision's network, narrow, and its file."""
    with torch.device("meta"):
        theirs = torchvision_vgg()
    theirs = randomised(theirs.to_empty(device="cpu")).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    return theirs, tmp_path / "theirs.pth"


def test_parameters_and_multiply_adds():
    for name, expected in (
        ("vgg16", (138_361_768, 138_588_072, 138_592_560)),
        ("vgg16_conv_bias", (138_365_992, 138_592_296, 138_596_784)),
    ):
        no_bias = parameters(f"se_{name}", se=SEConfig(bias=False))
        assert (parameters(name), no_bias, parameters(f"se_{name}")) == expected
        assert multiply_adds(name, 224) == 15_470_264_320
        assert multiply_adds(f"se_{name}", 224) == 15_470_264_320 + 226_304
    # Table 2 of the SE paper, 15.48: the products of gate and map are counted too.
    scaling = sum(
        site.channels() * (224 >> index) ** 2
        for index, stage in enumerate(("conv1", "conv2", "conv3", "conv4", "conv5"))
        for site in registry.skeleton(find_spec("vgg16")).se_sites()
        if site.stage == stage
    )
    assert round((15_470_264_320 + 226_304 + scaling) / 1e9, 2) == 15.48


def test_there_are_thirteen_sites_at_the_relus():
    sites = registry.skeleton(find_spec("vgg16")).se_sites()
    assert [site.path for site in sites] == [
        f"features.{index}" for index in (2, 5, 9, 12, 16, 19, 22, 26, 29, 32, 36, 39, 42)
    ]
    assert [site.channels() for site in sites] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6


@pytest.mark.parametrize("peer", ["torchvision", "timm", "pytorchcv"])
def test_whole_networks_of_others_are_recognised(peer):
    """Names and shapes at full size; the numbers below, with a narrow classifier."""
    if peer == "torchvision":
        models = pytest.importorskip("torchvision.models", reason="the peer to compare with; pip install torchvision")
        builds = {"vgg16_conv_bias": models.vgg16_bn}
    elif peer == "timm":
        timm = pytest.importorskip("timm", reason="the peer to compare with; pip install timm")
        builds = {"vgg16_conv_bias": lambda: timm.create_model("vgg16_bn")}
    else:
        vgg = pytest.importorskip("pytorchcv.models.vgg", reason="the peer to compare with; pip install pytorchcv")
        builds = {"vgg16": vgg.bn_vgg16, "vgg16_conv_bias": vgg.bn_vgg16b}
    for name, build in builds.items():
        with torch.device("meta"):
            theirs = build().state_dict()
        layout = next(layout for layout in WHOLE.layouts if layout.recognises(theirs))
        assert layout.name == peer
        ours = {new: layout.tensor_to_ours(new, theirs[old]) for old, new in layout.to_ours(theirs).items()}
        assert shapes_of(ours) == shapes_of(registry.skeleton(find_spec(name)).state_dict())
        assert guess_architecture(ours, family=WHOLE) == name
        back = layout.from_ours(ours)
        again = {back[new]: layout.tensor_from_ours(new, tensor) for new, tensor in ours.items()}
        assert shapes_of(again) == shapes_of(theirs)


def test_torchvision_weights_keep_their_names_and_compute_the_same(published):
    theirs, file = published
    ours = create_backbone("narrow_vgg16_conv_bias", 7).eval()
    report = load_weights(ours, file, preprocessing=IMAGENET_RGB)
    assert report.layout == "torchvision" and not report.unaccounted and not report.converted and not report.missing
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs, ours = theirs.double(), ours.double()
    for x in (images().double(), images(64, 64).double()):
        with torch.no_grad():
            expected = theirs(x)
            assert (ours(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()
            for (name, tensor), end in zip(ours.forward_features(x).items(), (7, 14, 24, 34, 44), strict=True):
                there = theirs.features[:end](x)
                assert (tensor - there).abs().max() <= TOLERANCE * there.abs().max(), name


def test_a_network_without_biases_takes_up_those_of_a_file(published, tmp_path):
    theirs, file = published
    ours = create_backbone("narrow_vgg16", 7).eval()
    report = load_weights(ours, file, preprocessing=IMAGENET_RGB)
    assert not report.unaccounted and not report.missing and len(report.converted) == 13
    assert report.ignored["features.0.bias"] == "folded into features.1.running_mean"
    x = images()
    with torch.no_grad():
        expected = theirs(x)
        # The running means were rounded once in float32.
        assert (ours(x) - expected).abs().max() <= 1e-4 * expected.abs().max()
        # With the statistics of the batch a bias has no effect at all.
        theirs.features.train(), ours.features.train()
        expected = theirs(x)
        assert (ours(x) - expected).abs().max() <= 1e-4 * expected.abs().max()
    with pytest.raises(WeightsError, match=r"features\.\*\.bias ×13"):
        load_weights(create_backbone("narrow_vgg16_conv_bias", 7), trained(classes=7).state_dict())


def test_a_file_is_of_the_row_that_has_all_of_it_unless_another_is_named(published, tmp_path):
    theirs, file = published
    assert convert_file(file, tmp_path / "biased.safetensors").architecture == "narrow_vgg16_conv_bias"
    assert read_state_dict(tmp_path / "biased.safetensors").state_dict.keys() == set(theirs.state_dict())
    done = convert_file(file, tmp_path / "plain.safetensors", architecture="narrow_vgg16")
    assert done.architecture == "narrow_vgg16"
    plain = read_state_dict(tmp_path / "plain.safetensors").state_dict
    assert plain.keys() == create_backbone("narrow_vgg16", 7).state_dict().keys()
    direct, indirect = create_backbone("narrow_vgg16", 7), create_backbone("narrow_vgg16", 7)
    load_weights(direct, file), load_weights(indirect, tmp_path / "plain.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(direct.buffers(), indirect.buffers(), strict=True))
    # torchvision's network has biases: it gets zeros.
    convert_file(tmp_path / "plain.safetensors", tmp_path / "back.pth", "torchvision")
    theirs.load_state_dict(read_state_dict(tmp_path / "back.pth").state_dict)
    assert not theirs.features[0].bias.any()
    with torch.no_grad():
        assert torch.equal(theirs.eval()(images()), direct.eval()(images()))


def test_timm_weights_compute_the_same_and_are_written_back(tmp_path):
    vgg = pytest.importorskip("timm.models.vgg", reason="the peer to compare with; pip install timm")
    with torch.device("meta"):
        theirs = vgg.VGG(vgg.cfgs["vgg16"], num_classes=7, norm_layer=nn.BatchNorm2d)
        theirs.pre_logits = vgg.ConvMlp(512, HIDDEN, drop_rate=0.0)
        theirs.head.fc = nn.Linear(HIDDEN, 7)
    theirs = randomised(theirs.to_empty(device="cpu")).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = create_backbone("narrow_vgg16_conv_bias", 7).eval()
    report = load_weights(ours, tmp_path / "theirs.pth", preprocessing=IMAGENET_RGB)
    assert report.layout == "timm" and not report.unaccounted and not report.missing
    x = images(224, 224, 1).double()  # of other sizes timm averages the logits of every 7×7 places
    with torch.no_grad():
        expected = theirs.double()(x)
        assert (ours.double()(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "timm")
    back, original = (read_state_dict(tmp_path / file).state_dict for file in ("back.pth", "theirs.pth"))
    assert back.keys() == original.keys() and all(torch.equal(back[key], original[key]) for key in original)


def test_pytorchcv_weights_without_biases_compute_the_same_and_are_written_back(tmp_path):
    vgg = pytest.importorskip("pytorchcv.models.vgg", reason="the peer to compare with; pip install pytorchcv")
    with torch.device("meta"):
        theirs = vgg.bn_vgg16(num_classes=7)
        theirs.output.fc1.fc = nn.Linear(512 * 49, HIDDEN)
        theirs.output.fc2.fc = nn.Linear(HIDDEN, HIDDEN)
        theirs.output.fc3 = nn.Linear(HIDDEN, 7)
    theirs = randomised(theirs.to_empty(device="cpu")).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = create_backbone("narrow_vgg16", 7).eval()
    report = load_weights(ours, tmp_path / "theirs.pth", preprocessing=IMAGENET_RGB)
    assert report.layout == "pytorchcv" and not report.unaccounted and not report.missing
    x = images(224, 224, 1).double()  # theirs has no pooling
    with torch.no_grad():
        expected = theirs.double()(x)
        assert (ours.double()(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()
    convert_file(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    done = convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "pytorchcv")
    assert done.architecture == "narrow_vgg16"
    back, original = (read_state_dict(tmp_path / file).state_dict for file in ("back.pth", "theirs.pth"))
    assert back.keys() == original.keys() and all(torch.equal(back[key], original[key]) for key in original)


@pytest.mark.parametrize("overrides", [{}, {"norm": "GN"}, {"norm": "FrozenBN"}], ids=str)
def test_insertion_changes_nothing_and_folding_undoes_it(overrides):
    plain = trained(**overrides)
    twin = insert_se(copy.deepcopy(plain))
    assert twin.spec.name == "narrow_se_vgg16" and all(site.gate is not None for site in twin.se_sites())
    x = images()
    for training in (True, False):
        plain.features.train(training), twin.features.train(training)
        assert torch.equal(plain(x), twin(x))
    theirs = twin.forward_features(x)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in plain.forward_features(x).items())
    report = fold_constant_gates(twin, [x], tolerance=0)
    assert len(report.folded) == 13 and twin.spec == plain.spec
    assert all(torch.equal(twin.state_dict()[key], tensor) for key, tensor in plain.state_dict().items())


def test_gates_that_are_another_constant_for_each_channel_fold_to_rounding():
    twin, x = trained("narrow_se_vgg16").double(), images().double()
    with torch.no_grad():
        for site in twin.se_sites():
            site.gate.fc2.weight.zero_()
        before = twin(x)
        report = fold_constant_gates(twin, [x], tolerance=1e-12)
        assert len(report.folded) == 13 and twin.spec.name == "narrow_vgg16"
        assert (twin(x) - before).abs().max() <= TOLERANCE * before.abs().max()


def test_a_gate_that_is_negative_cannot_pass_the_relu():
    twin = trained("narrow_se_vgg16", se=SEConfig(gate="tanh"))
    with torch.no_grad():
        twin.features[2].se.fc2.weight.zero_()
        twin.features[2].se.fc2.bias.fill_(-1.0)
    report = fold_constant_gates(twin, [images()], tolerance=1e-3)
    assert "features.2" not in report.folded and "negative mean behind a ReLU" in report.gates[0].reason


def test_insertion_into_a_file_and_while_loading(published, tmp_path):
    theirs, file = published
    x = images()
    done = insert_se_into_file(file, tmp_path / "se.safetensors", architecture="narrow_vgg16")
    assert done.architecture == "narrow_se_vgg16" and done.largest_difference == 0
    assert "the normalisation before it has doubled weight and bias" in done.note
    assert "it has squeeze-and-excitation, for which there is no place" in done.timm
    plain, from_file, loading = (create_backbone(f"narrow_{name}vgg16", 7).eval() for name in ("", "se_", "se_"))
    load_weights(plain, file)
    load_weights(from_file, tmp_path / "se.safetensors")
    load_weights_inserting_se(loading, file)
    assert torch.equal(from_file(x), plain(x)) and torch.equal(loading(x), plain(x))
    assert load_weights(create_backbone("narrow_se_vgg16", 7), from_file.state_dict()).preprocessing is None


def test_biases_in_a_detectors_file_go_the_same_way(published, tmp_path):
    _, file = published
    biased, direct, through, twin = (
        create_backbone(name, 0).eval()
        for name in ("narrow_vgg16_conv_bias", "narrow_vgg16", "narrow_vgg16", "narrow_se_vgg16")
    )
    for network in (biased, direct):
        load_weights(network, file, allow=["unexpected:classifier.*"])
    detector = {f"backbone.bottom_up.net.{name}": tensor for name, tensor in biased.state_dict().items()}
    detector["roi_heads.box_predictor.cls_score.weight"] = torch.ones(3, 4)
    torch.save(detector, tmp_path / "detector.pth")
    load_weights(through, tmp_path / "detector.pth", allow=["unexpected:roi_heads.*"])
    assert all(torch.equal(a, b) for a, b in zip(direct.buffers(), through.buffers(), strict=True))
    insert_se_into_file(tmp_path / "detector.pth", tmp_path / "se.safetensors", architecture="narrow_vgg16")
    load_weights(twin, tmp_path / "se.safetensors", allow=["unexpected:roi_heads.*"])
    theirs = direct.forward_features(images())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in twin.forward_features(images()).items())


def test_inserted_gates_of_a_frozen_stage_are_frozen():
    twin = insert_se(create_backbone("vgg16", 0, freeze_at=2))
    built = create_backbone("se_vgg16", 0, freeze_at=2)
    learns = {name: parameter.requires_grad for name, parameter in twin.named_parameters()}
    assert learns == {name: parameter.requires_grad for name, parameter in built.named_parameters()}
    assert not learns["features.9.se.fc1.weight"] and learns["features.16.se.fc1.weight"]
    assert isinstance(twin.features[8], FrozenBatchNorm2d) and isinstance(twin.features[15], nn.BatchNorm2d)


def test_the_gate_acts_behind_the_relu():
    unit = trained("narrow_se_vgg16").features[2]
    x = 10 * torch.randn(2, 64, 9, 9, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(unit.se(x), unit.se(x.relu()), atol=0.01)
    expected = x.relu() * unit.se(x.relu())
    assert torch.equal(unit(x.clone()), expected)


def test_maps_are_rounded_down_at_odd_sizes_and_do_not_depend_on_the_batch():
    network, x = trained("narrow_se_vgg16").double(), images().double()
    with torch.no_grad():
        maps, single = network.forward_features(x), network.forward_features(x[1:])
        logits = network(x)[1:]
        assert (network(x[1:]) - logits).abs().max() <= TOLERANCE * logits.abs().max()
    for stage, (channels, stride) in network.feature_info.items():
        assert maps[stage].shape == (2, channels, 75 // stride, 101 // stride)
        assert torch.allclose(maps[stage][1:], single[stage], rtol=TOLERANCE, atol=TOLERANCE)


def test_stages_behind_the_last_one_asked_for_are_not_built():
    network = create_backbone("se_vgg16", 0, out_features=["conv2", "conv3"])
    assert list(network.forward_features(images())) == ["conv2", "conv3"] and len(network.features) == 24
    assert network.stages == ("conv1", "conv2", "conv3") and not hasattr(network, "classifier")


def test_recomputation_changes_nothing():
    network = trained("narrow_se_vgg16", dropout=0.0).train()
    again = copy.deepcopy(network)
    again.recompute = True
    for each in (network, again):
        each(images(64, 64)).square().sum().backward()
    for (name, ours), theirs in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), again.buffers(), strict=True))


def test_a_new_head_replaces_the_last_of_three_layers(published):
    _, file = published
    network = create_backbone("narrow_vgg16", 3)
    load_weights(network, file, allow=["classifier.6.*"])
    assert network.head is network.classifier[6] and network.head.weight.shape == (3, HIDDEN)
    assert torch.equal(network.classifier[0].weight, read_state_dict(file).state_dict["classifier.0.weight"])


def test_dropout_acts_behind_both_hidden_layers():
    for expected, overrides in ((0.5, {}), (0.2, {"dropout": 0.2})):
        network = create_backbone("narrow_vgg16", 3, **overrides)
        assert [layer.p for layer in network.classifier if isinstance(layer, nn.Dropout)] == [expected] * 2


def test_activation_maps_are_the_logits_first_order_part():
    """Between the kinks of its ReLUs a logit is linear in the map: its change over a small step along the map is what
    the parts add up to."""
    network, x = trained(), images()
    found = class_activation_maps(network, x, classes=[0, 3])
    assert found.maps.shape == (2, 2, 2, 3) and torch.equal(found.logits, network(x))
    with torch.no_grad():
        last = network.forward_features(x)["conv5"].double()
        moved = network.double().classify(last * (1 + 1e-6)) - network.classify(last * (1 - 1e-6))
    assert torch.allclose(found.maps.mean((2, 3)).double(), moved[:, [0, 3]] / 2e-6, rtol=1e-4)


def test_no_branch_could_start_at_zero():
    with pytest.raises(ValueError, match="no residual branch"):
        create_backbone("narrow_vgg16", 3, zero_init_last=True)
