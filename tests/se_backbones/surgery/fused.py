"""What tests of fused networks need: a network, all that it gives, and how far that is from another one's."""

import torch

from se_backbones import create_backbone
from tests.se_backbones.networks import randomised


def network(name, dtype=torch.float32, **settings):
    return randomised(create_backbone(name, num_classes=7, **settings)).to(dtype).eval()


def outputs(model, x):
    maps = model.forward_features(x)
    return {**maps, "logits": model.classify(maps[model.stages[-1]])}


def difference(found, expected):
    """The largest, relative to each output's largest number."""
    assert found.keys() == expected.keys()
    return max(((found[k].to(v) - v).abs().max() / v.abs().max()).item() for k, v in expected.items())
