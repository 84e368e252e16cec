"""The normalisation layers a backbone can be built with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm with its statistics and affine parameters fixed: buffers, not parameters.

    Holds ``weight, bias, running_mean, running_var``, each (C,), under BatchNorm's names, so that a BatchNorm's
    weights load into it. Fine-tuning a detector with one or two images a GPU uses it, since batch statistics of so
    few images are noise (Detectron2 and torchvision do the same). With random weights it normalises nothing:
    from scratch, take a live normalisation.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # The four vectors are folded in float32, and only the result takes the map's type: under autocast a
        # half-precision variance would lose the small channels.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = scale.to(x.dtype).view(1, -1, 1, 1), shift.to(x.dtype).view(1, -1, 1, 1)
        return torch.addcmul(shift, x, scale)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.pop(prefix + "num_batches_tracked", None)  # a live BatchNorm's counter has no meaning here
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def _group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """32 groups (Wu and He, arXiv 1803.08494), or the largest count up to 32 that divides the channels."""
    groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=eps)


BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
NORMS = {"BN": nn.BatchNorm2d, "FrozenBN": FrozenBatchNorm2d, "SyncBN": nn.SyncBatchNorm, "GN": _group_norm}


def make_norm(norm: str, channels: int, eps: float = 1e-5) -> nn.Module:
    """A normalisation layer for (N, channels, H, W), by Detectron2's short name. ``eps`` is added to the variance.

    Raises:
        ValueError: the name is none of BN, FrozenBN, SyncBN, GN.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
    return NORMS[norm](channels, eps=eps)


def freeze(module: nn.Module) -> nn.Module:
    """Fixes a part of a network: no gradients, and every BatchNorm in it becomes a FrozenBatchNorm2d.

    Returns:
        the module, or its replacement where the module itself is a BatchNorm.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return _freeze_batch_norms(module)


def _freeze_batch_norms(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        frozen = FrozenBatchNorm2d(module.num_features, module.eps)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(frozen, name).copy_(getattr(module, name).detach())
        return frozen
    for name, child in module.named_children():
        replacement = _freeze_batch_norms(child)
        if replacement is not child:
            setattr(module, name, replacement)
    return module
