"""Names: each layout is recognised, converted one to one, and found below what a script wrapped around it."""

import pytest
import torch

from se_backbones import create_backbone, find_spec, list_backbones
from se_backbones.registry import family_of
from se_backbones.weights import WeightsError, convert_state_dict, describe, detect_layout, guess_architecture
from se_backbones.weights.formats.wrapped import unwrap
from se_backbones.weights.layouts import names_to_ours

RESNETS = family_of(find_spec("resnet50"))


def named(name, **arguments):
    """The network's state_dict without memory: names and shapes."""
    with torch.device("meta"):
        return create_backbone(name, **arguments).state_dict()


@pytest.mark.parametrize(
    ("name", "layout", "sign"),
    [
        ("se_resnet50", "timm", "layer1.0.se.fc1.weight"),
        ("resnet50", "torchvision", "layer4.2.bn3.running_var"),
        ("resnet50", "detectron2", "res2.0.shortcut.norm.weight"),
        ("resnet18", "detectron2", "stem.conv1.norm.bias"),
        ("se_resnet50_caffe", "timm-legacy", "layer1.0.se_module.fc2.bias"),
        ("senet154_caffe", "timm-legacy", "layer0.bn3.weight"),
        ("senet154", "timm", "conv1.6.weight"),
    ],
)
def test_there_and_back(name, layout, sign):
    ours = named(name)
    theirs = convert_state_dict(ours, "ours", layout)
    assert sign in theirs
    assert detect_layout(theirs) == layout
    back = convert_state_dict(theirs, layout, "ours")
    assert back.keys() == ours.keys()
    assert all(back[key] is ours[key] for key in ours)


def test_legacy_stem_of_senet154():
    """Cadene's three convolutions, the last of whose normalisations is bn1 with us."""
    names = names_to_ours(
        [f"layer0.{m}{i}.weight" for m in ("conv", "bn") for i in (1, 2, 3)], RESNETS.layout("timm-legacy")
    )
    assert list(names.values()) == [
        "conv1.0.weight",
        "conv1.3.weight",
        "conv1.6.weight",
        "conv1.1.weight",
        "conv1.4.weight",
        "bn1.weight",
    ]


@pytest.mark.parametrize(
    ("theirs", "layout", "ours"),
    [
        ("res_conv1_bn_s", "caffe2", "bn1.weight"),
        ("res_conv1_bn_gamma", "caffe2", "bn1.weight"),
        ("res_conv1_bn_running_var", "caffe2", "bn1.running_var"),
        ("conv1_w", "caffe2", "conv1.weight"),
        ("conv1_gn_s", "caffe2", "bn1.weight"),
        ("res2_0_branch1_w", "caffe2", "layer1.0.downsample.0.weight"),
        ("res2_0_branch1_bn_b", "caffe2", "layer1.0.downsample.1.bias"),
        ("res4_22_branch2b_bn_rm", "caffe2", "layer3.22.bn2.running_mean"),
        ("res5_2_branch2c_w", "caffe2", "layer4.2.conv3.weight"),
        ("pred_b", "caffe2", "fc.bias"),
        ("fc1000_w", "caffe2", "fc.weight"),
        ("stem.fc.weight", "detectron2", "fc.weight"),
        (
            "backbone.bottom_up.res3.1.conv2.norm.bias",
            "detectron2-model",
            "backbone.bottom_up.net.layer2.1.bn2.bias",
        ),
        ("backbone.stem.conv1.weight", "detectron2-model", "backbone.net.conv1.weight"),
        ("backbone.fpn_lateral3.weight", "detectron2-model", "backbone.fpn_lateral3.weight"),
        ("roi_heads.res5.0.shortcut.norm.weight", "detectron2-model", "roi_heads.res5.0.downsample.1.weight"),
        ("backbone.layer1.0.se_layer.conv2.conv.bias", "mmpretrain", "layer1.0.se.fc2.bias"),
        ("head.fc.weight", "mmpretrain", "fc.weight"),
        ("layer3.5.se.fc.2.weight", "moskomule", "layer3.5.se.fc2.weight"),
    ],
)
def test_single_names(theirs, layout, ours):
    assert names_to_ours([theirs], RESNETS.layout(layout)) == {theirs: ours}


def test_unknown_names_are_shown():
    with pytest.raises(WeightsError, match=r"blocks\.0\.attn\.qkv"):
        detect_layout(["blocks.0.attn.qkv.weight", "cls_token"])


def test_two_names_for_one_tensor():
    with pytest.raises(WeightsError, match=r"same tensor fc\.weight"):
        names_to_ours(["linear.weight", "stem.fc.weight", "res2.0.conv1.weight"], RESNETS.layout("detectron2"))


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("se_resnet50", "torchvision", "squeeze-and-excitation"),
        ("se_resnet50", "detectron2", "squeeze-and-excitation"),
        ("resnet50", "timm-legacy", "has none"),
        ("resnet50", "caffe2", "none of them"),
    ],
)
def test_targets_that_cannot_hold_the_network(name, target, why):
    with pytest.raises(WeightsError, match=why):
        convert_state_dict(named(name), "ours", target)


# --- wrappers ---


def wrapped_forms():
    def prefixed(*prefixes):
        return lambda state: {"".join(prefixes) + name: tensor for name, tensor in state.items()}

    yield "bare", lambda state: state
    yield "module.", prefixed("module.")
    yield "model.", prefixed("model.")
    yield "_orig_mod.", prefixed("_orig_mod.")
    yield "module._orig_mod.model.", prefixed("module.", "_orig_mod.", "model.")
    yield "state_dict", lambda state: {"state_dict": state, "epoch": 3}
    yield "model", lambda state: {"model": state, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}
    yield "model_ema", lambda state: {"model_ema": state}
    yield "nested", lambda state: {"model": {"state_dict": prefixed("module.")(state)}, "step": 1}
    yield (
        "averaged",
        lambda state: {"model_ema": prefixed("module.")(state) | {"n_averaged": torch.tensor(5)}},
    )
    yield (
        "inner compile",
        lambda state: {name.replace("layer1.", "layer1._orig_mod."): t for name, t in state.items()},
    )


@pytest.mark.parametrize(
    ("form", "wrap"), list(wrapped_forms()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_wrapped_forms(form, wrap):
    state = {name: torch.zeros(1) for name in named("se_resnet18")}
    found = unwrap(wrap(dict(state)), "a file")
    assert found.state_dict.keys() == state.keys()
    assert detect_layout(found.state_dict) == "timm"


def test_the_weights_before_their_average():
    """Both copies in one file: the trained one is taken, and the other can be asked for."""
    content = {"state_dict_ema": {"fc.bias": torch.ones(1)}, "state_dict": {"fc.bias": torch.zeros(1)}}
    found = unwrap(content, "a file")
    assert found.state_dict["fc.bias"] == 0 and "FILE#state_dict_ema loads it" in found.notes[0]
    assert unwrap(content, "a file", "state_dict_ema").state_dict["fc.bias"] == 1
    with pytest.raises(WeightsError, match="state_dict_ema, state_dict"):
        unwrap(content, "a file", "ema")


# --- names and dictionaries that no list has ---

STATE = {f"layer1.0.conv{number}.weight": torch.full((1,), float(number)) for number in (1, 2)}


def is_network(names):
    return any(name.startswith("layer1.0.conv1.") for name in names)


def below(*prefixes):
    return {prefix + name: tensor for prefix in prefixes for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "net.",
        "encoder.",
        "ema_model.",
        "student.",
        "module.net.",
        "a.b.c.d.",
        "_orig_mod.net.",
        "model._orig_mod.",
        "model.",
    ],
)
@pytest.mark.parametrize(
    "around", [lambda state: state, lambda state: {"state_dict": state}, lambda state: {"my": state}]
)
def test_one_network_below_any_prefix(prefix, around):
    """As Lightning's files are (pytorch-lightning#2617): what lies beside the network is named."""
    beside = {"criterion.pos_weight": torch.ones(3), "loss.m.weight": torch.ones(1)}
    found = unwrap(around(below(prefix) | beside), "a file", is_network=is_network)
    assert found.state_dict == STATE and found.left_out.keys() == beside.keys()
    assert any("criterion.pos_weight" in note for note in found.notes)
    alone = unwrap(around(below(prefix)), "a file", is_network=is_network)
    assert alone.state_dict == STATE and not alone.left_out


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (below("model.", "ema_model."), ("model", "ema_model")),
        ({"state_dict": below("module.student.", "module.teacher.")}, ("student", "teacher")),
        ({"student": STATE, "teacher": STATE}, ("student", "teacher")),
        ({"student": {"state_dict": STATE}, "teacher": below("net.")}, ("student", "teacher")),
        ({"model": {"student": STATE, "teacher": STATE}}, ("model.student", "model.teacher")),
        (below("student.net.", "teacher.net.") | {"queue": torch.ones(1)}, ("student.net", "teacher.net")),
    ],
)
def test_of_several_networks_one_must_be_named(content, parts):
    with pytest.raises(WeightsError) as caught:
        unwrap(content, "a file", is_network=is_network)
    for part in parts:
        assert f"FILE#{part}" in str(caught.value)
        assert unwrap(content, "a file", part, is_network).state_dict == STATE  # what is advised works
    with pytest.raises(WeightsError, match="has no part 'nothing' with tensors; it has"):
        unwrap(content, "a file", "nothing", is_network)


def test_other_networks_in_the_file_are_named():
    content = {"state_dict": STATE, "teacher": below("net."), "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}}
    (note,) = unwrap(content, "a file", is_network=is_network).notes
    assert "FILE#teacher" in note
    assert unwrap(content, "a file", "teacher", is_network).state_dict == STATE


@pytest.mark.parametrize("content", [{"ema": STATE}, {"ema": STATE, "model": {}}, {"model_ema": STATE}])
def test_nothing_is_advised_that_is_not_there(content):
    assert unwrap(content, "a file", is_network=is_network).notes == []


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(3), {"model": {"a": 1}}])
def test_files_without_weights(content):
    with pytest.raises(WeightsError, match="a file"):
        unwrap(content, "a file")


# --- what network it is ---


@pytest.mark.parametrize("name", list_backbones())
def test_architectures_are_recognised(name):
    row = find_spec(name)
    known = {setting: getattr(row.hyper, setting) for setting in family_of(row).unmarked}
    assert guess_architecture(named(name), known) == name


def test_what_tensors_do_not_show_must_be_named():
    with pytest.raises(WeightsError, match="resnet50 and resnet50_msra"):
        guess_architecture(named("resnet50"), {"ceil_pool": False})
    assert guess_architecture(named("resnet18"), {"ceil_pool": False}) == "resnet18"  # no 1×1 in its units


def test_shape_in_words():
    shape = describe(named("se_resnext50_32x4d"))
    assert (shape.groups, shape.width_per_group, shape.reduction, shape.num_classes) == (32, 4, 16, 1000)
    assert "groups 32 × 4" in str(shape) and "SEConfig(reduction=16)" in str(shape)
