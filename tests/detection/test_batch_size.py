"""A step on the largest batch that a detector's training can have."""

import numpy as np
import pytest
import torch
from PIL import Image

from detection.batch_size import detector_step
from detection.data import make_data
from detection.model import with_classes


@pytest.fixture
def wide_and_high(tmp_path):
    """A set with one image that is twice as wide as high, one the other way round, and a square one."""
    coco = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "thing"}]}
    for number, (width, height) in enumerate(((40, 40), (80, 40), (40, 80)), 1):
        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(tmp_path / f"{number}.png")
        coco["images"].append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
        coco["annotations"].append({"id": number, "image_id": number, "category_id": 3, **box})
    return make_data("three", tmp_path / "none.json", tmp_path, coco, with_masks=False)


def test_it_is_padded_to_the_widest_and_the_highest_image(tiny, wide_and_high, monkeypatch):
    cfg = tiny("MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "(32, 64)", "MODEL.MASK_ON", "False")
    step = detector_step(with_classes(cfg, 1, "three"), torch.device("cpu"), wide_and_high)
    seen, conv = [], torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda module, x: seen.append(tuple(x.shape)) or conv(module, x))
    for count in (1, 2):
        step(count)
    assert [shape for shape in seen if shape[1] == 3] == [(1, 3, 64, 128), (2, 3, 128, 128)]
