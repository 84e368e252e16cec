"""load_weights accounts for every name, loads all or nothing, and refuses what would fit and be wrong."""

import json

import pytest
import torch
from torch import nn

from se_backbones import SEConfig
from se_backbones.weights import (
    CAFFE_BGR,
    IMAGENET_RGB,
    Preprocessing,
    WeightsError,
    detection_head_patterns,
    load_weights,
    read_state_dict,
)

IMAGENET_255 = {
    "channel_order": "RGB",
    "scale": 255,
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
}


@pytest.fixture(scope="module")
def source(filled):
    """The weights of an SE-ResNet-18 with 10 classes. Not to be changed."""
    return dict(filled("se_resnet18", 1, num_classes=10).state_dict())


@pytest.fixture
def model(filled):
    return filled("se_resnet18", 2, num_classes=10)


def untouched(model, load):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return str(caught.value)


def same(model, source, prefix=""):
    return all(torch.equal(tensor, source[name.removeprefix(prefix)]) for name, tensor in model.state_dict().items())


def test_all_names_loaded(model, source):
    report = load_weights(model, source)
    assert same(model, source)
    assert report.counts()["loaded"] == len(source) and report.unaccounted == []


def test_missing_name(model, source):
    state = {name: tensor for name, tensor in source.items() if name != "layer2.1.bn2.weight"}
    message = untouched(model, lambda: load_weights(model, state))
    assert "missing in the file (1):\n    layer2.1.bn2.weight" in message
    report = load_weights(model, state, allow=["layer2.1.bn2.weight"])
    assert report.missing == ["layer2.1.bn2.weight"] and report.allowed == {
        "layer2.1.bn2.weight": "layer2.1.bn2.weight"
    }


def test_unexpected_name(model, source):
    state = source | {"layer5.weight": torch.zeros(2)}
    assert "unexpected in the file (1):\n    layer5.weight" in untouched(model, lambda: load_weights(model, state))
    assert load_weights(model, state, allow=["unexpected:layer5.*"]).unexpected == ["layer5.weight"]
    untouched(model, lambda: load_weights(model, state, allow=["missing:layer5.*"]))


def test_wrong_shape_and_new_head(filled, source):
    model = filled("se_resnet18", 2, num_classes=3)
    own = model.fc.weight.clone()
    message = untouched(model, lambda: load_weights(model, source))
    assert "fc.weight: [10, 512] in the file, [3, 512] in the model" in message
    assert "classifier has 10 classes and the model's 3" in message
    report = load_weights(model, source, allow=("fc.*",))
    assert torch.equal(model.fc.weight, own) and torch.equal(model.conv1.weight, source["conv1.weight"])
    assert [wrong.name for wrong in report.wrong_shape] == ["fc.weight", "fc.bias"]
    assert set(report.allowed) == {"fc.weight", "fc.bias"}


def test_every_name_is_in_one_group(filled, source):
    model = filled("se_resnet18", 2, num_classes=3)
    report = load_weights(model, source | {"extra.weight": torch.ones(1)}, allow=("fc.*", "extra.*"))
    groups = [report.loaded, report.missing, [w.name for w in report.wrong_shape], list(report.derived)]
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(model.state_dict())
    from_file = [
        *report.loaded,
        *report.unexpected,
        *(w.source_name for w in report.wrong_shape),
        *report.ignored,
    ]
    assert sorted(from_file) == sorted([*source, "extra.weight"])


def test_integer_tensors_are_not_weights(model, source):
    state = source | {"fc.bias": torch.zeros(10, dtype=torch.int8)}
    assert "int8 numbers" in untouched(model, lambda: load_weights(model, state))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(model, source, bad):
    state = source | {"layer3.0.conv1.weight": source["layer3.0.conv1.weight"].clone()}
    state["layer3.0.conv1.weight"][0, 0, 0, 0] = bad
    assert "not finite, or a negative variance: layer3.0.conv1.weight" in untouched(
        model, lambda: load_weights(model, state)
    )


def test_negative_variance(model, source):
    state = source | {"bn1.running_var": source["bn1.running_var"] - 5}
    assert "negative variance: bn1.running_var" in untouched(model, lambda: load_weights(model, state))


def test_counters_are_derived_or_ignored(filled, source):
    without = {name: tensor for name, tensor in source.items() if not name.endswith("num_batches_tracked")}
    report = load_weights(filled("se_resnet18", 2, num_classes=10), without)
    assert len(report.derived) == len(source) - len(without) and not report.missing
    frozen = filled("se_resnet18", 2, num_classes=10, norm="FrozenBN")
    report = load_weights(frozen, source)
    assert len(report.ignored) == len(source) - len(without) and not report.unexpected


def test_half_precision_file(model, source):
    load_weights(model, {name: t.half() if t.is_floating_point() else t for name, t in source.items()})
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, source["conv1.weight"].half().float())


def test_wrappers_of_the_model_are_looked_through(model, source):
    load_weights(nn.DataParallel(model), source)
    assert same(model, source)


def test_plain_weights_into_an_se_network(filled, source):
    plain = dict(filled("resnet18", 1, num_classes=10).state_dict())
    se_model, plain_model = filled("se_resnet18", 2, num_classes=10), filled("resnet18", 2, num_classes=10)
    assert "inserting it after loading" in untouched(se_model, lambda: load_weights(se_model, plain))
    assert "the model has none" in untouched(plain_model, lambda: load_weights(plain_model, source))


def test_timm_widths_name_the_reduction(filled):
    rounded = filled("se_resnet18", 1, se=SEConfig(reduction=(8, 16, 16, 16)))
    model = filled("se_resnet18", 2)
    message = untouched(model, lambda: load_weights(model, dict(rounded.state_dict())))
    assert "SEConfig(reduction=(8, 16, 16, 16)) fits the file" in message and "timm rounds the widths" in message


def test_group_norm(filled):
    """As timm's resnet50_gn: the same names, no statistics."""
    theirs = dict(filled("resnet18", 1, norm="GN").state_dict())
    ours = filled("resnet18", 2, norm="GN")
    assert load_weights(ours, theirs).unaccounted == [] and same(ours, theirs)
    model = filled("resnet18", 2)
    assert "GroupNorm has none (norm='GN')" in untouched(model, lambda: load_weights(model, theirs))


def test_another_depth_is_said_in_one_line(filled):
    model = filled("resnet18")
    message = untouched(model, lambda: load_weights(model, dict(filled("resnet34").state_dict())))
    assert "depths is (3, 4, 6, 3) in the file and (2, 2, 2, 2) in the model" in message
    assert len(message) < 5000


@pytest.mark.parametrize("name", ["resnet50d", "seresnext26d_32x4d", "seresnet50t"])
def test_timm_variants_that_the_table_lacks(name, empty):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
    model = empty("se_resnet50" if name.startswith("se") else "resnet50")
    with pytest.raises(WeightsError, match="7×7 convolution and the other three 3×3"):
        load_weights(model, {key: torch.zeros(tensor.shape) for key, tensor in theirs.items()})


# --- architecture: what tensors do not show ---


def test_legacy_weights_only_fit_their_own_row(filled):
    legacy = {}
    for key, tensor in filled("se_resnet50_caffe", 1).state_dict().items():
        key = f"layer0.{key}" if key.startswith(("conv1.", "bn1.")) else key.replace(".se.fc", ".se_module.fc")
        legacy[key.replace("fc.", "last_linear.") if key.startswith("fc.") else key] = tensor
    model = filled("se_resnet50", 2)
    message = untouched(model, lambda: load_weights(model, legacy))
    assert "stride_in_1x1=True" in message and "ceil_pool=True" in message and "'se_resnet50_caffe'" in message
    report = load_weights(model, legacy, allow=["architecture"])
    assert any("ceil_pool=True" in text for text in report.warnings)
    assert load_weights(filled("se_resnet50_caffe", 3), legacy).warnings == []


def checkpoint(source, **more):
    return {"format": "se-backbones-checkpoint/1", "task": "places365", "model": source, **more}


def test_our_checkpoint_states_its_network(filled, source, tmp_path):
    torch.save(checkpoint(source, backbone="se_resnet18_caffe"), tmp_path / "c.pth")
    model = filled("se_resnet18", 2, num_classes=10)
    assert "ceil_pool=True (se_resnet18_caffe)" in untouched(model, lambda: load_weights(model, tmp_path / "c.pth"))
    torch.save(checkpoint(source, backbone="se_resnet18", se={"placement": "identity"}), tmp_path / "d.pth")
    assert "SE placement 'identity'" in untouched(model, lambda: load_weights(model, tmp_path / "d.pth"))


def test_our_checkpoint_stands_for_its_averaged_weights(model, source, tmp_path):
    """They are what its run evaluates, and what its final weights are."""
    average = {
        f"module.{name}": tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in source.items()
    }
    content = checkpoint(source, backbone="se_resnet18", ema={"n_averaged": torch.tensor(7), **average})
    torch.save(
        {**content, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}}, tmp_path / "checkpoint_0000007.pth"
    )
    report = load_weights(model, tmp_path / "checkpoint_0000007.pth")
    assert same(model, {name: average[f"module.{name}"] for name in source})
    assert any("averaged weights were taken" in note for note in report.notes)
    load_weights(model, f"{tmp_path / 'checkpoint_0000007.pth'}#model")
    assert same(model, source)
    torch.save(checkpoint(source, backbone="se_resnet18", ema=None), tmp_path / "plain.pth")
    assert not any("averaged" in note for note in load_weights(model, tmp_path / "plain.pth").notes)


# --- preprocessing ---


def test_preprocessing_in_either_scale_is_the_same(model, source):
    load_weights(model, source, preprocessing=IMAGENET_255)
    load_weights(model, source, preprocessing=IMAGENET_RGB)


@pytest.mark.parametrize(
    "config",
    [
        CAFFE_BGR,
        {**IMAGENET_255, "channel_order": "BGR"},
        {**IMAGENET_255, "scale": 1},
        {"channel_order": "RGB", "scale": 1, "mean": [0.5] * 3, "std": [0.5] * 3},
    ],
)
def test_preprocessing_that_contradicts(model, source, config):
    message = untouched(model, lambda: load_weights(model, source, preprocessing=config))
    assert str(IMAGENET_RGB) in message and str(Preprocessing.of(config)) in message
    report = load_weights(model, source, ["preprocessing"], preprocessing=config)
    assert any("preprocessing" in text for text in report.warnings)


def test_a_checkpoints_own_preprocessing_counts(model, source, tmp_path):
    own = {"channel_order": "BGR", "scale": 255, "mean": [103.53, 116.28, 123.675], "std": [1, 1, 1]}
    torch.save(checkpoint(source, preprocessing=own, classes=["cat", "dog"]), tmp_path / "c.pth")
    report = load_weights(model, tmp_path / "c.pth", preprocessing=CAFFE_BGR)
    assert report.preprocessing_basis == "stated" and report.classes == ["cat", "dog"]
    untouched(model, lambda: load_weights(model, tmp_path / "c.pth", preprocessing=IMAGENET_RGB))


@pytest.mark.parametrize(
    "bad",
    [
        {"channel_order": "GRB"}, {"std": [0, 1, 1]}, {"mean": [1, 2]}, {"scale": "x"},
        {"mean": [float("nan")] * 3}, {"scale": float("inf")},
    ],
)  # fmt: skip
def test_preprocessing_out_of_range(bad):
    with pytest.raises(WeightsError, match="preprocessing"):
        Preprocessing.of({**IMAGENET_255, **bad})
    with pytest.raises(WeightsError, match="missing"):
        Preprocessing.of({"channel_order": "RGB"})


def test_preprocessing_that_a_file_states_wrongly_names_the_file(source, tmp_path):
    torch.save(checkpoint(source, preprocessing={"channel_order": "RGB"}), tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"c\.pth.*'scale' is missing"):
        read_state_dict(tmp_path / "c.pth")


# --- detectors ---


class Detector(nn.Module):
    """The names of a detector, and nothing of its working."""

    def __init__(self, net, c4=False):
        super().__init__()
        self.backbone = nn.Module()
        self.roi_heads = nn.Module()
        self.roi_heads.box_predictor = nn.Linear(8, 4)
        self.proposal_generator = nn.Conv2d(8, 3, 1)
        if c4:
            self.backbone.net = net
            self.roi_heads.res5 = net.take_stage("res5")
            del net.layer4
        else:
            self.backbone.bottom_up = nn.Module()
            self.backbone.bottom_up.net = net
            self.backbone.fpn_lateral2 = nn.Conv2d(64, 8, 1)


@pytest.fixture
def detector(filled, randomise):
    return lambda seed, **arguments: randomise(Detector(filled("se_resnet18", seed, num_classes=0), **arguments), seed)


@pytest.mark.parametrize("c4", [False, True])
def test_detector_takes_a_backbone(detector, source, c4):
    model = detector(2, c4=c4)
    heads = model.roi_heads.box_predictor.weight.clone()
    message = untouched(model, lambda: load_weights(model, source))
    assert "proposal_generator.weight" in message and "fc.weight" in message
    report = load_weights(model, source, detection_head_patterns())
    assert torch.equal(model.roi_heads.box_predictor.weight, heads)
    layer4 = model.roi_heads.res5 if c4 else model.backbone.bottom_up.net.layer4
    assert torch.equal(layer4[1].se.fc2.weight, source["layer4.1.se.fc2.weight"])
    assert not report.unaccounted and set(report.unexpected) == {"fc.weight", "fc.bias"}


def test_detector_takes_its_backbone_alone_by_prefix(detector, source):
    model = detector(2)
    report = load_weights(model, source, ["fc.*"], prefix="backbone.bottom_up.net.")
    assert report.missing == [] and same(model.backbone.bottom_up.net, source)
    with pytest.raises(WeightsError, match=r"nothing under 'backbone\.net\.'"):
        load_weights(model, source, prefix="backbone.net.")


def test_detector_takes_a_detector(detector, tmp_path):
    theirs, model = detector(1), detector(2)
    content = {"format": "se-backbones-checkpoint/1", "model": theirs.state_dict(), "backbone": "se_resnet18"}
    torch.save(content, tmp_path / "model_final.pth")
    report = load_weights(model, tmp_path / "model_final.pth")
    assert report.layout == "ours-detection" and same(model, theirs.state_dict())
    # A part of a head missing is not a head that starts anew.
    del content["model"]["roi_heads.box_predictor.bias"]
    torch.save(content, tmp_path / "cut.pth")
    message = untouched(model, lambda: load_weights(model, tmp_path / "cut.pth", detection_head_patterns()))
    assert "roi_heads.box_predictor.bias" in message


def test_classifier_takes_a_detectors_backbone(detector, filled):
    theirs, model = detector(1), filled("se_resnet18", 2, num_classes=10)
    with pytest.raises(WeightsError, match=r"(?s)is a whole detector.*backbone\.fpn_lateral2"):
        load_weights(model, theirs.state_dict(), ["fc.*"])
    allow = [
        "missing:fc.*",
        "unexpected:roi_heads.*",
        "unexpected:proposal_generator.*",
        "unexpected:backbone.fpn_*",
    ]
    load_weights(model, theirs.state_dict(), allow)
    assert torch.equal(model.layer4[0].conv1.weight, theirs.backbone.bottom_up.net.layer4[0].conv1.weight)


def test_detectron2_model_into_ours(filled, randomise):
    model = randomise(Detector(filled("resnet50", 2, num_classes=0)), 2)
    theirs = randomise(Detector(filled("resnet50", 1, num_classes=0)), 1).state_dict()
    from se_backbones.weights.layouts import convert_state_dict

    state = convert_state_dict(theirs, "ours-detection", "detectron2")
    assert "backbone.bottom_up.res2.0.shortcut.norm.weight" in state
    state |= {
        "pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    assert "does not say whether its network has stride_in_1x1" in untouched(model, lambda: load_weights(model, state))
    report = load_weights(model, state, ["architecture"], preprocessing=CAFFE_BGR)
    assert same(model, theirs) and len(report.ignored) == 3
    untouched(model, lambda: load_weights(model, state, ["architecture"], preprocessing=IMAGENET_RGB))


# --- the report ---


def test_report_on_paper(filled, source, tmp_path):
    report = load_weights(filled("se_resnet18", num_classes=3), source, ["fc.*"])
    text = report.format()
    assert text.splitlines()[1].strip().startswith(f"{len(source) - 2} loaded, 0 converted, 0 missing")
    written = json.loads(report.write(tmp_path / "deep" / "weights.json").read_text())
    assert list(written)[0] == "counts" and len(written["loaded"]) == len(source) - 2
    assert written["wrong_shape"][0]["in_file"] == [10, 512]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["weights.json"]


def test_long_lists_are_folded(filled, source):
    model = filled("resnet18", num_classes=10)
    with pytest.raises(WeightsError, match=r"layer\*\.\*\.se\.fc1\.weight ×8|layer\*\.\*\.se\.fc\*\.weight ×16"):
        load_weights(model, source)


@pytest.mark.parametrize("allow", ["fc.*", ["lost:fc.*"]])
def test_allow_is_a_list_of_known_kinds(model, source, allow):
    with pytest.raises(WeightsError, match="allow"):
        load_weights(model, source, allow)
