"""Class activation maps: which places of an image speak for a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from se_backbones import Backbone


class ActivationMaps(NamedTuple):
    """What ``class_activation_maps`` gives.

    Attributes:
        logits: (N, K) float32, the network's answer, as ``network(images)`` gives it.
        classes: (N, C) int64, whose maps these are.
        maps: (N, C, h, w) float32, h and w those of the last stage.
    """

    logits: Tensor
    classes: Tensor
    maps: Tensor


def class_activation_maps(
    network: Backbone, images: Tensor, classes: Sequence[int] | Tensor | None = None
) -> ActivationMaps:
    """Exact class activation maps and the logits, from one forward pass.

    ``M_k(x, y) = sum_c w_kc f_c(x, y)`` with the last stage's map f and the classifier's weights w (Zhou et al.,
    Learning Deep Features for Discriminative Localization, CVPR 2016, arXiv 1512.04150, equation 2). Where the
    classifier is linear and stands behind an average, the map is the logit taken apart by place: ``mean over (x, y) of
    M_k = logit_k - bias_k``. A value above 0 speaks for the class, one below 0 against it.

    Where the classifier is not linear (VGG's three layers), ``w_kc`` is at each place h * w times the logit's gradient
    by ``f_c(x, y)``, which for a linear classifier is the same: the logit's first-order part, taken apart by place.

    Args:
        network: with a classifier, in eval mode. (Dropout and a batch's own statistics would undo the equality.)
        images: (N, 3, H, W), normalised, on the network's device.
        classes: (C,) indices for all images, (N, C) for each image its own, or None: the likeliest of each image.

    Raises:
        ValueError: the network is in training mode or has no classifier, or `classes` does not fit.
    """
    if network.training:
        raise ValueError("class activation maps are of a network in eval mode: call network.eval() first")
    if network.num_classes < 1:
        raise ValueError("this network has no classifier, so there are no classes to map")
    last = network.forward_features(images)[network.stages[-1]].float()
    logits = network.classify(last).float()
    if classes is None:
        chosen = logits.argmax(1, keepdim=True)
    else:
        chosen = torch.as_tensor(classes, dtype=torch.int64, device=logits.device)
        chosen = chosen.expand(len(logits), -1) if chosen.dim() == 1 else chosen
    if chosen.dim() != 2 or len(chosen) != len(logits):
        raise ValueError(f"classes must be (C,) or ({len(logits)}, C); got {tuple(chosen.shape)}")
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < network.num_classes:
        raise ValueError(f"classes must be in 0..{network.num_classes - 1}; got {chosen.tolist()}")
    if network.linear_head:
        weights = network.head.weight.float()[chosen]  # (N, C, channels)
        maps = torch.einsum("nkc,nchw->nkhw", weights, last)
    else:
        maps = _by_gradient(network, last, chosen)
    return ActivationMaps(logits, chosen, maps)


def _by_gradient(network: Backbone, last: Tensor, chosen: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = last.clone().requires_grad_()
        logits = network.classify(x).gather(1, chosen.clone())
        gradients = [torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)[0] for k in range(chosen.shape[1])]
        maps = [(gradient * x).sum(1) * gradient[0, 0].numel() for gradient in gradients]
    return torch.stack(maps, 1).detach()
