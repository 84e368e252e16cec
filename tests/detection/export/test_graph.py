"""Detectors as one graph: what they find is what Detectron2's own code finds."""

import pytest
import torch

from detection.config import load_config
from detection.export.graph import detector_graph
from detection.exported import fitted
from detection.model import build_detector, with_classes
from engine.errors import UserError
from se_backbones import find_network
from tests.detection.conftest import CONFIGS
from tests.se_backbones.networks import randomised

SMALL = [
    "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "",
    "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "64", "MODEL.RPN.POST_NMS_TOPK_TEST", "60",
]  # fmt: skip
KINDS = {
    "faster_rcnn_se_r50": [],
    "faster_rcnn_se_r50_c4": [],
    "faster_rcnn_se_r50_dc5": [],
    "mask_rcnn_se_r50": [],
    "retinanet_se_r50": [],
    "faster_rcnn_se_mobilenet_fpn": ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"],
}


def detector(name, *overrides):
    """Of random weights, with many objects of different scores."""
    architecture = [] if "mobilenet" in name else SMALL[:2]
    cfg = load_config(CONFIGS / f"{name}.yaml", [*architecture, *SMALL[2:], *overrides])
    model = build_detector(with_classes(cfg, 3, "a test")).eval()
    randomised(find_network(model))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for place, parameter in model.named_parameters():
            if any(part in place for part in ("objectness", "cls_score", "bbox_pred", "anchor_deltas", "predictor")):
                spread = 0.1  # scores that tie at 1 have no order
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def picture(height, width):
    pixels = torch.randint(0, 256, (3, height // 8, width // 8), generator=torch.Generator().manual_seed(height))
    return torch.nn.functional.interpolate(pixels[None].float(), (height, width))[0].round()


def same_objects(found, expected):
    """Whether each object of one is one of the other, whatever the order of scores that differ by rounding alone."""
    ours = torch.cat((found["boxes"], found["scores"][:, None] * 1000, found["classes"][:, None] * 1000), 1)
    theirs = torch.cat((expected.scores[:, None], expected.pred_classes[:, None]), 1) * 1000
    distances = torch.cdist(ours, torch.cat((expected.pred_boxes.tensor, theirs), 1), p=torch.inf)
    ordered = (found["scores"].diff() <= 0).all()
    return ordered and len(ours) == len(theirs) and max(distances.amin(0).max(), distances.amin(1).max()) < 0.05


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(96, 160), (120, 88)])
@torch.inference_mode()
def test_a_graph_finds_what_the_detector_finds(name, size):
    model = detector(name, *KINDS[name])
    expected = model([{"image": picture(*size), "height": size[0], "width": size[1]}])[0]["instances"]
    assert len(expected) > 5
    graph = detector_graph(model)
    assert graph.backbone is model.backbone  # a second copy of a detector's weights would be one too many
    # Padded as the detector pads: padding reaches gates.
    image, shape = fitted(picture(*size), None, model.backbone.size_divisibility or 1)
    found = dict(zip(graph.outputs, graph(image, shape), strict=True))
    assert same_objects(found, expected)
    assert ("masks" in found) == expected.has("pred_masks")
    if "masks" in found:
        assert found["masks"].shape == (len(expected), 28, 28) and 0 <= found["masks"].min() < found["masks"].max() <= 1


@torch.inference_mode()
def test_what_is_padding_does_not_reach_the_maps_as_colours():
    graph = detector_graph(detector("faster_rcnn_se_r50"))
    image, shape = fitted(picture(96, 120), None, 32)
    dirty = image.clone()
    dirty[..., 120:] = 200
    for found, expected in zip(graph(dirty, shape), graph(image, shape), strict=True):
        assert torch.equal(found, expected)


@torch.inference_mode()
def test_a_graph_in_bf16_has_boxes_and_scores_in_float32():
    graph = detector_graph(detector("faster_rcnn_se_r50"), torch.bfloat16)
    boxes, scores, classes = graph(*fitted(picture(96, 96), None, 32))
    assert boxes.dtype == scores.dtype == torch.float32 and classes.dtype == torch.int64
    assert graph.rpn.rpn_head.conv.weight.dtype == torch.bfloat16 and len(scores) > 5


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"], "Cascade"),
        (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], "ProposalNetwork"),
    ],
)
def test_a_detector_with_parts_that_a_graph_has_not_is_refused_by_name(overrides, word):
    with pytest.raises(UserError, match=word):
        detector_graph(detector("faster_rcnn_se_r50", *overrides))


@pytest.mark.parametrize("size", [None, (64, 96)])
def test_an_image_is_fitted_into_the_size_of_a_file(size):
    image, shape = fitted(picture(48, 80), size, 32)
    assert image.dtype == torch.uint8 and image.shape == (1, 3, 64, 96) and shape.tolist() == [48, 80]
    assert torch.equal(image[0, :, :48, :80].float(), picture(48, 80)) and not image[..., 48:, :].any()
    image, shape = fitted(picture(160, 80), (64, 96), 32)
    assert image.shape == (1, 3, 64, 96) and shape.tolist() == [64, 32]
