"""First values that the general initialisation does not give."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def scale_to_groups(network: nn.Module) -> None:
    """Makes a He initialisation by the fan-out right for grouped convolutions.

    ``torch.nn.init.kaiming_normal_`` takes all output channels for the fan-out, where an input channel feeds those of
    its own group alone: the weights come out ``sqrt(groups)`` times too small, 32 times for a depthwise convolution of
    1024 channels.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.weight.mul_(math.sqrt(module.groups))
