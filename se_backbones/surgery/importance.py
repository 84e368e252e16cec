"""What a channel is worth: the measures that pruning goes by, and the controls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from se_backbones.backbone import find_network, sites_of
from se_backbones.surgery.channel_groups import ChannelGroup
from se_backbones.surgery.gates import evaluating, record


@dataclass(frozen=True)
class Evidence:
    """What importances may look at beside the weights.

    Attributes:
        images: batches (N, 3, H, W), normalised as the network takes them.
        losses: calls that each give the loss of one batch, a scalar with gradients, the model being in the mode that
            they need; each batch by itself.
        seed: of the importance that is drawn.
    """

    images: Sequence[Tensor] = ()
    losses: Iterable[Callable[[], Tensor]] = ()
    seed: int = 0


# (model, its groups, evidence) → for each group (C,) float64, the lowest goes first.
Importance = Callable[[nn.Module, Sequence[ChannelGroup], Evidence], list[Tensor]]


def gate(model: nn.Module, groups: Sequence[ChannelGroup], evidence: Evidence) -> list[Tensor]:
    """The mean gate of each channel over images, without its sign. Channels that no gate scales are ranked by ``bn``.

    Raises:
        ValueError: no gate scales any of the channels, or there are no images.
    """
    return _by_gates(groups, _mean_gates(model, groups, evidence), bn(model, groups, evidence), times_scale=False)


def gate_bn(model: nn.Module, groups: Sequence[ChannelGroup], evidence: Evidence) -> list[Tensor]:
    """``gate`` times ``bn``: by what the normalised channel is multiplied in the mean. Channels that no gate scales are
    ranked by ``bn`` alone. Raises ValueError as ``gate``."""
    return _by_gates(groups, _mean_gates(model, groups, evidence), bn(model, groups, evidence), times_scale=True)


def random(model: nn.Module, groups: Sequence[ChannelGroup], evidence: Evidence) -> list[Tensor]:
    """Drawn, by the evidence's seed: what any choice does."""
    generator = torch.Generator().manual_seed(evidence.seed)
    return [torch.rand(group.channels, generator=generator, dtype=torch.float64) for group in groups]


def l1(model: nn.Module, groups: Sequence[ChannelGroup], evidence: Evidence) -> list[Tensor]:
    """The sum of the absolute weights of the filter that makes a channel (Li et al., arXiv 1608.08710)."""
    return [group.maker.layer.weight.detach().double().cpu().abs().flatten(1).sum(1) for group in groups]


def bn(model: nn.Module, groups: Sequence[ChannelGroup], evidence: Evidence) -> list[Tensor]:
    """|scale| of the normalisation behind the convolution that makes a channel (Network Slimming, Liu et al., arXiv
    1708.06519; there an L1 penalty in the training makes scales small, here the training is as it was)."""
    return [group.norm.layer.weight.detach().double().cpu().abs() for group in groups]


def taylor(model: nn.Module, groups: Sequence[ChannelGroup], evidence: Evidence) -> list[Tensor]:
    """The squared first-order change of the loss without a channel: the mean over batches of (sum over images and
    places of activation times gradient)², at the normalisation's output (Molchanov et al., arXiv 1906.10771, equation 8
    with a gate of 1 behind the normalisation).

    Raises:
        ValueError: there are no losses.
    """
    weights = [group.norm.layer.weight for group in groups]
    masks = [torch.ones_like(weight, requires_grad=True) for weight in weights]
    totals = [torch.zeros(group.channels, dtype=torch.float64) for group in groups]

    def masked(mask: Tensor) -> Callable[..., Tensor]:
        return lambda module, inputs, out: out * mask.to(out.dtype).view(1, -1, 1, 1)

    batches = 0
    with ExitStack() as stack, torch.enable_grad():
        for group, mask in zip(groups, masks, strict=True):
            stack.callback(group.norm.layer.register_forward_hook(masked(mask)).remove)
        for loss in evidence.losses:
            found = torch.autograd.grad(loss(), masks, allow_unused=True)
            for total, gradient in zip(totals, found, strict=True):
                if gradient is not None:  # of a stage that a detector's batch did not reach
                    total += gradient.detach().cpu().double().square()
            batches += 1
    if not batches:
        raise ValueError("the importance taylor needs losses: batches of labelled images")
    return [total / batches for total in totals]


IMPORTANCES: Mapping[str, Importance] = {
    "gate": gate,
    "gate_bn": gate_bn,
    "bn": bn,
    "l1": l1,
    "taylor": taylor,
    "random": random,
}


def _mean_gates(model: nn.Module, groups: Sequence[ChannelGroup], evidence: Evidence) -> dict[str, Tensor]:
    """Path of a site → the mean of its gate, (C of the gate,), without its sign, for the gates that scale groups."""
    network = find_network(model)
    wanted = {group.gate.site for group in groups if group.gate}
    if not wanted:
        raise ValueError(
            f"no gate scales channels of {network.spec.name} that can go: {_why_no_gate(model)}. Train it with "
            "placement inside (MODEL.SE.PLACEMENT inside), or choose another importance, bn say"
        )
    if not evidence.images:
        raise ValueError("an importance of gates needs images to see them on")
    # A stage in a detector's heads sees regions; its gates are not seen here.
    sites = [site for site in network.se_sites() if site.path in wanted]
    with evaluating(network):
        moments = record(network.forward_features, sites, ((images, None) for images in evidence.images))
    return {path: found.mean.abs() for path, found in moments.items()}


def _why_no_gate(model: nn.Module) -> str:
    placements = {site.placement for site in sites_of(model) if site.gate is not None}
    if not placements:
        return "it has no gates"
    return (
        f"at the placement {', '.join(sorted(placements))} they scale the residual stream, or what is added to it, "
        "which all units of a stage share"
    )


def _by_gates(
    groups: Sequence[ChannelGroup], means: Mapping[str, Tensor], scales: Sequence[Tensor], times_scale: bool
) -> list[Tensor]:
    found = []
    for group, scale in zip(groups, scales, strict=True):
        if group.gate is None or group.gate.site not in means:
            found.append(scale)
        else:
            mean = means[group.gate.site][group.gate.own]
            found.append(mean * scale if times_scale else mean)
    return found
