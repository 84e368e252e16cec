"""A trained model made ready for images that it is not to learn from."""

from __future__ import annotations

import torch
from torch import nn

from engine.errors import UserError
from se_backbones import FusedBackbone, find_network, fuse


def for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a model with its network fused, see ``se_backbones.fuse``: equal to it up to rounding. A model whose
    network is fused already is given back.

    Args:
        dtype: in which the network computes; what stands around it does by autocast.

    Raises:
        UserError: weights that are not finite.
    """
    try:
        if isinstance(find_network(model), FusedBackbone):
            return model.eval()
        return fuse(model, None if dtype == torch.float32 else dtype)
    except ValueError as error:
        raise UserError(f"the model cannot be used: {error}") from None
