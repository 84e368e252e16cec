"""``prune``: channels out of a trained network, by what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from se_backbones.backbone import find_network
from se_backbones.layers.norm import FrozenBatchNorm2d
from se_backbones.surgery.channel_groups import ChannelGroup, Part, find_groups
from se_backbones.surgery.importance import IMPORTANCES, Evidence
from se_backbones.surgery.widths import cut_spec


@dataclass
class GroupCut:
    """What became of one group of channels.

    Attributes:
        name: path of the convolution that makes them.
        channels, kept: how many there were, and are.
        site: the one whose gate scales them; "": none does.
    """

    name: str
    channels: int
    kept: int
    site: str = ""


@dataclass
class PruneReport:
    """What ``prune`` did.

    Attributes:
        ratio, importance, seed: as given.
        parameters_before, parameters: of the network, or of the model that it is in.
        groups: first to last.
    """

    ratio: float
    importance: str
    seed: int
    parameters_before: int
    parameters: int
    groups: list[GroupCut] = field(default_factory=list)

    def as_dict(self) -> dict:
        """Everything, as plain values."""
        return asdict(self)

    def format(self) -> str:
        """The report as lines of text."""
        before, after = sum(group.channels for group in self.groups), sum(group.kept for group in self.groups)
        gated = sum(bool(group.site) for group in self.groups)
        lines = [
            f"{before - after:,} of {before:,} inner channels cut by {self.importance}, {self.ratio:g} of each of "
            f"{len(self.groups)} groups ({gated} of them scaled by a gate); parameters: {self.parameters_before:,} "
            f"before, {self.parameters:,} after"
        ]
        lines += [f"  {group.name:40} {f'{group.channels} -> {group.kept}':>14}" for group in self.groups]
        return "\n".join(lines)


def prune(
    model: nn.Module,
    ratio: float,
    importance: str,
    images: Sequence[Tensor] = (),
    losses: Iterable[Callable[[], Tensor]] = (),
    seed: int = 0,
) -> PruneReport:
    """Cuts the least important inner channels out of a trained network, in place.

    Of every group (see ``find_groups``) the same share goes: so networks cut by any importance have the same widths,
    parameters and multiply-adds, and what differs is which channels stayed. What a global ranking would do beside, give
    some layers more, is another question than which measure tells channels apart. A share is of channels, not of
    multiply-adds: where a convolution loses half of its inputs and half of its outputs it loses three quarters.

    The stages' maps keep their channels, so that whatever stands on the network fits. Layers behind a group lose the
    inputs, an excitation its inputs and its gates' outputs; its hidden channels stay. A grouped convolution loses as
    many channels of each of its groups.

    Args:
        model: a backbone, or a model that contains one, a stage in its heads included. Its parameters are new objects
            where they were cut, and optimizers and averaged copies are to be made anew; its ``spec`` says what it is
            now, and ``create_backbone(spec.name, se=spec.se, widths=spec.widths)`` builds it.
        ratio: of the channels that go, above 0 and below 1: of n in a group ``ratio * n``, rounded down, so that one
            at least stays.
        importance: a name in ``IMPORTANCES``.
        images: batches (N, 3, H, W), normalised, for ``gate`` and ``gate_bn``.
        losses: calls that each give the loss of one batch, for ``taylor``.
        seed: for ``random``.

    Returns:
        the report.

    Raises:
        ValueError: an unknown importance, a ratio out of its range or so small that nothing would go, evidence that is
            missing or not finite, or the network cannot be pruned (so); the message says why. Nothing has been changed
            then.
        ModuleNotFoundError: torch-pruning is not installed; the message says how to.
    """
    if importance not in IMPORTANCES:
        raise ValueError(f"importance must be one of {', '.join(IMPORTANCES)}; got {importance!r}")
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must be above 0 and below 1; got {ratio!r}")
    groups = find_groups(model)
    report = PruneReport(float(ratio), importance, seed, _parameters(model), 0)
    values = IMPORTANCES[importance](model, groups, Evidence(images, losses, seed))
    kept = [_keep(group, value, ratio) for group, value in zip(groups, values, strict=True)]
    if all(len(stay) == group.channels for group, stay in zip(groups, kept, strict=True)):
        raise ValueError(f"a ratio of {ratio:g} rounds down to no channel in every layer of this network")
    cut_groups(groups, kept)
    for group, stay in zip(groups, kept, strict=True):
        site = group.gate.site if group.gate else ""
        report.groups.append(GroupCut(group.path, group.channels, len(stay), site))
    network = find_network(model)
    network.spec = cut_spec(model)
    report.parameters = _parameters(model)
    return report


def _keep(group: ChannelGroup, importance: Tensor, ratio: float) -> Tensor:
    """The channels that stay, in their order. Of equals the first ones do."""
    if not importance.isfinite().all():
        raise ValueError(f"the importances of {group.path} are not finite: the weights are of a training that diverged")
    stay = []
    sizes = group.cells.bincount()
    if len(sizes.unique()) > 1:
        raise ValueError(f"the groups of the convolutions around {group.path} share its channels unequally")
    for cell in range(len(sizes)):
        own = (group.cells == cell).nonzero()[:, 0]
        count = len(own) - int(ratio * len(own) + 1e-9)  # 0.7 * 10 is to be 7
        stay.append(own[importance[own].argsort(descending=True, stable=True)[:count]])
    return torch.cat(stay).sort().values


def cut_groups(groups: Sequence[ChannelGroup], kept: Sequence[Tensor]) -> None:
    """Takes channels out of every layer that has them, in place.

    Args:
        kept: for each group those of its channels that are not cut, ascending.
    """
    # A layer behind a concatenation has channels of several groups: it is cut once, by the numbers that they have now.
    gone: dict[tuple[nn.Module, bool], tuple[Part, list[Tensor]]] = {}
    for group, stay in zip(groups, kept, strict=True):
        cut = torch.ones(group.channels, dtype=torch.bool)
        cut[stay] = False
        for part in group.parts:
            gone.setdefault((part.layer, part.side == "input"), (part, []))[1].append(part.own[cut])
    for part, own in gone.values():
        if len(together := torch.cat(own)):
            _cut(part, together)


@torch.no_grad()
def _cut(part: Part, gone: Tensor) -> None:
    layer = part.layer
    count = layer.in_channels if part.side == "input" else layer.weight.shape[0]
    stay = torch.ones(count, dtype=torch.bool)
    stay[gone] = False
    index = stay.nonzero()[:, 0].to(layer.weight.device)
    if part.side == "input":
        _cut_inputs(layer, index)
        return
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (tensor := getattr(layer, name, None)) is not None:
            _set(layer, name, tensor[index])
    if isinstance(layer, nn.Conv2d):
        layer.out_channels = len(index)
        if part.side == "both":  # depthwise
            layer.in_channels = layer.groups = len(index)
    elif not isinstance(layer, FrozenBatchNorm2d):
        layer.num_features = len(index)


def _cut_inputs(conv: nn.Conv2d, index: Tensor) -> None:
    """``index``: the inputs that stay, ascending, as many of each group."""
    # A filter sees the inputs of its own group alone, counted from the group's first.
    groups, width = conv.groups, conv.in_channels // conv.groups
    by_group = conv.weight.unflatten(0, (groups, -1))
    own = (index % width).view(groups, -1)
    _set(conv, "weight", torch.cat([by_group[number][:, own[number]] for number in range(groups)]))
    conv.in_channels = len(index)


def _set(layer: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(layer, name)
    tensor = tensor.detach().clone(memory_format=torch.preserve_format)
    if isinstance(old, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(layer, name, tensor)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
