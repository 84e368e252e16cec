"""Detectors on networks other than ResNets: their committed configs build and train."""

import pytest
import torch

from detection import build_detector
from detection.model import with_classes

from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage


def example(height=64, width=96):
    target = Instances((height, width))
    target.gt_boxes = Boxes(torch.tensor([[5.0, 5.0, 40.0, 50.0], [50.0, 10.0, 90.0, 60.0]]))
    target.gt_classes = torch.tensor([0, 2])
    image = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(0)).float()
    return {"image": image, "height": height, "width": width, "instances": target}


@pytest.mark.parametrize(
    "network, channels",
    [
        ("mobilenet", [128, 256, 512, 1024]),
        ("shufflenet", [24, 240, 480, 960]),
        ("bn_inception", [192, 320, 608, 1024]),
        ("vgg16", [128, 256, 512, 512]),
        ("inception_resnet_v2", [192, 320, 1088, 1536]),
    ],
)
def test_the_configs_build_a_pyramid_and_every_gate_behind_the_first_stage_learns(network, channels, tiny):
    # live normalisation, as the weights are random
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16"]
    cfg = with_classes(tiny(*overrides, config=f"faster_rcnn_se_{network}_fpn.yaml"), 3, "test")
    torch.manual_seed(0)
    model = build_detector(cfg)
    shapes = model.backbone.bottom_up.output_shape().values()
    assert [(shape.channels, shape.stride) for shape in shapes] == list(zip(channels, (4, 8, 16, 32), strict=True))
    with EventStorage(0):
        losses = model.train()([example(), example()])
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    # fc1 learns from the second step on: a gate put in starts with a zero fc2
    net = model.backbone.bottom_up.net
    for site in net.se_sites():
        gradient = site.gate.fc2.weight.grad
        if site.stage == net.stages[0]:  # frozen; VGG's alone has gates
            assert gradient is None and cfg.MODEL.BACKBONE.FREEZE_AT == 1
        else:
            assert gradient is not None and gradient.any(), site.path
