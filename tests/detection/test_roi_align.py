"""ROIAlign as weighted sums equals torchvision's."""

import pytest
import torch
import torchvision

from detection.fused import detector_for_inference
from detection.roi_align import FastROIAlign, roi_align
from engine import compat  # noqa: F401  (before detectron2)
from tests.detection.test_fused import detector

from detectron2.layers import ROIAlign

HEIGHT, WIDTH = 13, 17


def boxes(seed=0, count=60):
    """Of all sizes, over every edge, without area, outside of the image, and one larger than it."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 90 - 20
    side = torch.rand(count, 2, generator=generator) ** 3 * 100
    odd = [[0, 0, 68, 52], [-40, -40, 120, 120], [5, 5, 5, 5], [10, 10, 10, 30], [200, 200, 220, 210], [3, 3, 2, 2]]
    all_boxes = torch.cat((torch.cat((corner, corner + side), 1), torch.tensor(odd, dtype=torch.float32)))
    image = torch.randint(0, 2, (len(all_boxes), 1), generator=generator)
    return torch.cat((image, all_boxes), 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize(("output", "scale"), [((7, 7), 0.25), ((3, 5), 0.5), ((1, 1), 1.0)])
@torch.no_grad()
def test_it_equals_torchvisions(output, scale, sampling, aligned):
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(2, 8, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
        expected = torchvision.ops.roi_align(x, boxes(), output, scale, sampling, aligned)
        torch.testing.assert_close(
            roi_align(x, boxes(), output, scale, sampling, aligned), expected, rtol=1e-5, atol=1e-5
        )


@torch.no_grad()
def test_no_box_and_a_map_of_one_place():
    x = torch.randn(1, 4, 1, 1)
    assert roi_align(x, torch.zeros(0, 5), (7, 7), 1.0, 0, True).shape == (0, 4, 7, 7)
    rois = torch.tensor([[0.0, -1.0, -1.0, 2.0, 2.0]])
    expected = torchvision.ops.roi_align(x, rois, (2, 2), 1.0, 0, True)
    torch.testing.assert_close(roi_align(x, rois, (2, 2), 1.0, 0, True), expected)


@torch.no_grad()
def test_it_computes_in_the_maps_type():
    x = torch.randn(2, 8, HEIGHT, WIDTH).to(memory_format=torch.channels_last)
    exact = roi_align(x, boxes(), (7, 7), 0.25, 0, True)
    found = roi_align(x.bfloat16(), boxes(), (7, 7), 0.25, 0, True)
    assert found.dtype == torch.bfloat16 and (found - exact).abs().max() < 0.05


def test_with_gradients_it_is_detectron2s_own(monkeypatch):
    own = ROIAlign((7, 7), 0.25, 0, True)
    x = torch.randn(2, 8, HEIGHT, WIDTH, requires_grad=True)
    FastROIAlign(own)(x, boxes()).sum().backward()
    expected = torch.autograd.grad(own(x, boxes()).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)


@torch.inference_mode()
def test_a_detectors_poolers_are_replaced_in_the_copy_alone():
    model = detector()
    fast = detector_for_inference(model)

    def kinds(model):
        return {type(module) for module in model.roi_heads.box_pooler.level_poolers}

    assert kinds(fast) == {FastROIAlign} and kinds(model) == {ROIAlign}
