"""Detectors on MobileNet, ShuffleNet and BN-Inception: their committed configs build and train."""

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
    ],
)
def test_the_configs_build_a_pyramid_and_every_gate_learns(network, channels, tiny):
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
    gates = {name: p.grad for name, p in model.named_parameters() if ".se.fc2." in name}
    assert gates and all(grad is not None and grad.any() for grad in gates.values())
