"""SE backbones in Detectron2: every form that a config can name."""

from pathlib import Path

import pytest
import torch

from detection import SEBackbone, build_detector, get_cfg, load_config
from detection.model import with_classes
from engine.config.se import se_config
from engine.errors import UserError
from engine.run.folder import differing_keys
from se_backbones import create_backbone, find_spec, list_backbones
from se_backbones.preprocessing import IMAGENET_RGB
from se_backbones.weights import WeightsError
from tests.detection.others import save_stated
from tests.se_backbones.networks import change_rows
from tests.se_backbones.networks import small as small_row

from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
IMAGE = torch.zeros(1, 3, 64, 96)


def small(*overrides):
    return load_config(None, ["MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "16", *overrides])


def test_importing_the_package_registers_every_form():
    for name in (
        "build_se_backbone",
        "build_se_fpn_backbone",
        "build_retinanet_se_fpn_backbone",
    ):
        assert name in BACKBONE_REGISTRY
        earlier = name.replace("_se_", "_se_resnet_")
        assert BACKBONE_REGISTRY.get(earlier) is BACKBONE_REGISTRY.get(name), "what earlier configs call it"


@pytest.mark.parametrize("form", ["plain", "fpn", "retinanet"])
@pytest.mark.parametrize("architecture", ["resnet18", "se_resnet50", "se_resnet50_caffe", "senet154"])
def test_the_maps_have_the_announced_shapes(form, architecture, monkeypatch):
    change_rows(monkeypatch, small_row)
    name, inputs = {
        "plain": ("build_se_backbone", "['res3', 'res5']"),
        "fpn": ("build_se_fpn_backbone", "['res2', 'res3', 'res4', 'res5']"),
        "retinanet": ("build_retinanet_se_fpn_backbone", "['res3', 'res4', 'res5']"),
    }[form]
    keys = ["MODEL.RESNETS.OUT_FEATURES", inputs] if form == "plain" else ["MODEL.FPN.IN_FEATURES", inputs]
    backbone = build_backbone(small("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.ARCHITECTURE", architecture, *keys))
    with torch.no_grad():
        maps = backbone(IMAGE)
    shapes = backbone.output_shape()
    assert set(maps) == set(shapes)
    wanted = {
        "plain": {"res3", "res5"},
        "fpn": {"p2", "p3", "p4", "p5", "p6"},
        "retinanet": {"p3", "p4", "p5", "p6", "p7"},
    }
    assert set(maps) == wanted[form]
    for key, value in maps.items():
        assert value.shape[1] == shapes[key].channels
        assert value.shape[2:] == (max(-(-64 // shapes[key].stride), 1), max(-(-96 // shapes[key].stride), 1))


@pytest.mark.parametrize("architecture", list_backbones())
def test_every_backbone_can_be_named(architecture):
    cfg = small("MODEL.BACKBONE.ARCHITECTURE", architecture, "MODEL.FPN.IN_FEATURES", "[]")
    if find_spec(architecture).image_size == 32:
        with pytest.raises(UserError, match=f"strides 4, 8, 16, 32, and {architecture} has 1, 2, 4;"):
            build_backbone(cfg)
        return
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert list(backbone.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


def test_se_options_reach_the_network():
    options = [
        "REDUCTION",
        "[2, 4, 8, 16]",
        "PLACEMENT",
        "pre",
        "STAGES",
        "[3, 4]",
        "SQUEEZE",
        "max",
        "GATE",
        "tanh",
        "BIAS",
        "False",
    ]
    options = [word if i % 2 else f"MODEL.SE.{word}" for i, word in enumerate(options)]
    plain = ["MODEL.BACKBONE.NAME", "build_se_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res5']"]
    cfg = small(*plain, *options)
    se = build_backbone(cfg).net.spec.se
    reductions = [se.reduction_of(f"res{stage}") for stage in (2, 3, 4, 5)]
    assert (reductions, se.placement, se.stages) == ([2, 4, 8, 16], "pre", ("res3", "res4"))
    assert (se.squeeze, se.gate, se.bias) == ("max", "tanh", False)


def test_reductions_and_stages_can_be_given_by_name(tmp_path):
    settings = "{REDUCTION: [[res3, 8], [res5, 32]], STAGES: [res3, 5], WITHOUT: [layer4.2]}"
    file = tmp_path / "config.yaml"
    file.write_text(f"MODEL: {{BACKBONE: {{ARCHITECTURE: se_resnet50}}, SE: {settings}}}", encoding="utf-8")
    cfg = load_config(file)
    file.write_text(cfg.dump(), encoding="utf-8")
    for se in (se_config(cfg), se_config(load_config(file))):
        assert [se.reduction_of(f"res{stage}") for stage in (2, 3, 4, 5)] == [16, 8, 16, 32]
        assert (se.stages, se.without) == (("res3", "res5"), ("layer4.2",))


@pytest.mark.parametrize("name", ["build_se_fpn_backbone", "build_se_backbone"])
def test_a_pruned_network_is_built_from_its_config(name):
    widths = [["layer1.0.conv1", 24, 64], ["layer1.0.bn1", 24, 24], ["layer1.0.conv2", 64, 24]]
    cfg = small("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.WIDTHS", str(widths))
    backbone = build_backbone(cfg)
    net = getattr(backbone, "bottom_up", backbone).net
    layer = net.layer1[0].conv2
    assert (layer.in_channels, [list(width) for width in net.spec.widths]) == (24, sorted(widths))


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["MODEL.BACKBONE.ARCHITECTURE", "se_resent50"], "se_resnet50"),
        (["MODEL.SE.PLACEMENT", "after"], "standard, pre, post, identity"),
        (["MODEL.SE.REDUCTION", "8.5"], "MODEL.SE.REDUCTION"),
        (["MODEL.SE.REDUCTION", "[['res3', 8.5]]"], "MODEL.SE.REDUCTION"),
        (["MODEL.SE.REDUCTON", "8"], "MODEL.SE.REDUCTION"),
        (["MODEL.SE.GATE", "tanh", "MODEL.BACKBONE.ARCHITECTURE", "resnet50"], "use se_resnet50,"),
        (["MODEL.SE.GATE", "tanh", "MODEL.BACKBONE.ARCHITECTURE", "resnet50_msra"], "no twin with SE"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_right(overrides, words):
    with pytest.raises(UserError, match=words):
        load_config(None, overrides)


def test_an_unknown_backbone_builder_is_named_with_the_nearest():
    cfg = with_classes(small("MODEL.BACKBONE.NAME", "build_se_fpn"), 3, "test")
    with pytest.raises(UserError, match="build_se_fpn_backbone"):
        build_detector(cfg)


def test_the_number_of_classes_comes_from_the_data_and_may_not_contradict_it():
    assert with_classes(get_cfg(), 3, "x.json").MODEL.ROI_HEADS.NUM_CLASSES == 3
    with pytest.raises(UserError, match="NUM_CLASSES is 80, but x.json has 3"):
        with_classes(load_config(None, ["MODEL.ROI_HEADS.NUM_CLASSES", "80"]), 3, "x.json")
    retinanet = ["MODEL.RETINANET.NUM_CLASSES", "80"]  # which a Faster R-CNN does not read
    assert with_classes(load_config(None, retinanet), 3, "x.json").MODEL.ROI_HEADS.NUM_CLASSES == 3
    with pytest.raises(UserError, match="RETINANET.NUM_CLASSES is 80"):
        with_classes(load_config(None, ["MODEL.META_ARCHITECTURE", "RetinaNet", *retinanet]), 3, "x.json")


def example(height=64, width=96):
    target = Instances((height, width))
    target.gt_boxes = Boxes(torch.tensor([[5.0, 5.0, 40.0, 50.0], [50.0, 10.0, 90.0, 60.0]]))
    target.gt_classes = torch.tensor([0, 2])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, 5:50, 5:40] = True
    masks[1, 10:60, 50:90] = True
    target.gt_masks = BitMasks(masks)
    return {
        "image": torch.randint(0, 256, (3, height, width)).float(),
        "height": height,
        "width": width,
        "instances": target,
    }


@pytest.mark.parametrize(
    "config",
    [
        "faster_rcnn_se_r50",
        "faster_rcnn_se_r50_c4",
        "faster_rcnn_se_r50_dc5",
        "mask_rcnn_se_r50",
        "retinanet_se_r50",
        "faster_rcnn_se_r50_scratch",
    ],
)
def test_each_form_trains_and_predicts(config, tiny, monkeypatch):
    change_rows(monkeypatch, small_row)
    small_heads = {
        "MODEL.DEVICE": "cpu",
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
        "MODEL.ROI_BOX_HEAD.CONV_DIM": 32,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "INPUT.MASK_FORMAT": "bitmask",
        "MODEL.FPN.OUT_CHANNELS": 32,  # Detectron2's GroupNorm has 32 groups
    }
    words = [str(word) for pair in small_heads.items() for word in pair]
    cfg = with_classes(tiny(*words, config=f"{config}.yaml"), 3, "test")
    model = build_detector(cfg)
    with EventStorage(0):
        losses = model.train()([example(), example()])
    assert all(loss.isfinite() for loss in losses.values()) and len(losses) >= 2
    sum(losses.values()).backward()
    gates = {n: p.grad for n, p in model.named_parameters() if ".se.fc2.weight" in n and p.requires_grad}
    assert gates and all(g is not None and g.abs().sum() > 0 for g in gates.values())
    with torch.no_grad():
        found = model.eval()([{k: v for k, v in example().items() if k != "instances"}])[0]["instances"]
    assert found.pred_boxes.tensor.shape[1] == 4 and found.image_size == (64, 96)
    assert found.has("pred_masks") == config.startswith("mask")


def test_a_plain_and_an_se_config_differ_in_one_line():
    for plain, se in (
        ("faster_rcnn_r50", "faster_rcnn_se_r50"),
        ("faster_rcnn_r101", "faster_rcnn_se_r101"),
        ("bccd_r50", "bccd_se_r50"),
    ):
        a, b = (load_config(CONFIGS / f"{name}.yaml") for name in (plain, se))
        keys = {line.split(":")[0] for line in differing_keys(a, b)}
        assert keys == {"MODEL.BACKBONE.ARCHITECTURE", "OUTPUT_DIR"}


@pytest.fixture(scope="module")
def stated(tmp_path_factory):
    save_stated(path := tmp_path_factory.mktemp("stated") / "stated.pth")
    return path


def test_a_networks_own_weights_are_held_against_the_input_as_those_of_the_backbone_are(stated):
    net = create_backbone("se_resnet18", 0, pretrained=stated)
    fed = IMAGENET_RGB.as_dict()
    assert SEBackbone(net, preprocessing=fed).net is net and SEBackbone(net).net is net
    other = fed | {"channel_order": "BGR"}
    for make in (lambda: (net,), lambda: (create_backbone("se_resnet18", 0), str(stated))):
        with pytest.raises(WeightsError, match="want images as RGB.* BGR"):
            SEBackbone(*make(), preprocessing=other)


def test_weights_from_two_places_are_refused(stated):
    with pytest.raises(WeightsError, match="created with weights already .*stated.pth"):
        SEBackbone(create_backbone("se_resnet18", 0, pretrained=stated), str(stated))
