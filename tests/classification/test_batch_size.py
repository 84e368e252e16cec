"""A step on the largest batch that a classifier's training can have."""

import torch

from classification.batch_size import classifier_step
from classification.config import load_config


def test_it_is_of_the_largest_side_and_mixed_as_in_training(monkeypatch):
    words = [
        "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar", "INPUT.TRAIN_SIZE", "48",
        "INPUT.TRAIN_SIZE_START", "32", "INPUT.MIXUP", "0.2", "SOLVER.IMS_PER_BATCH", "1",
    ]  # fmt: skip
    step = classifier_step(load_config(None, words), torch.device("cpu"), 100, 7)
    seen, conv = [], torch.nn.Conv2d.forward
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda module, x: seen.append(tuple(x.shape)) or conv(module, x))
    for count in (1, 4):
        step(count)
    assert [shape for shape in seen if shape[1] == 3] == [(1, 3, 48, 48), (4, 3, 48, 48)]
