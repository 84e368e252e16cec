"""A trained model made ready for images that it is not to learn from."""

from __future__ import annotations

import copy

import torch
from fvcore.common.config import CfgNode
from torch import nn

from engine.errors import UserError
from se_backbones import Backbone, FusedBackbone, fuse


def for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a model with its network fused, see ``se_backbones.fuse``: equal to it up to rounding. A network that
    is fused already, and a model with another project's, stay as they are.

    Args:
        dtype: in which the network computes; what stands around it does by autocast.

    Raises:
        UserError: weights that are not finite.
    """
    networks = [module for module in model.modules() if isinstance(module, Backbone)]
    if not networks or isinstance(networks[0], FusedBackbone):
        return copy.deepcopy(model).eval()
    try:
        return fuse(model, None if dtype == torch.float32 else dtype)
    except ValueError as error:
        raise UserError(f"the model cannot be used: {error}") from None


def evaluated_exactly(cfg: CfgNode) -> CfgNode:
    """A config whose evaluation takes a model as it is, in float32."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.FUSE, cfg.TEST.PRECISION = False, "fp32"
    return cfg
