"""``fold_constant_gates``: SE out of a trained network where its gates hardly move."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor, nn

from se_backbones.backbone import Backbone, SESite, find_network, sites_of
from se_backbones.registry import twin_name
from se_backbones.surgery.gates import GateMoments, evaluating, record


@dataclass
class GateRange:
    """What a site's gate did over the images, each channel by itself and then over all channels.

    Attributes:
        name: of the site, ``layer4.2``.
        minimum, maximum, mean: the smallest and largest value of any channel, and the mean over channels and images.
        deviation: the largest distance of a value from its channel's mean over the images.
        folded: whether the gate is gone.
        reason: why it is not; empty where it is.
    """

    name: str
    minimum: float
    maximum: float
    mean: float
    deviation: float
    folded: bool = False
    reason: str = ""


@dataclass
class OutputChange:
    """How far an output moved: differences over all its numbers, and the largest number itself, for scale."""

    largest_difference: float = 0.0
    mean_difference: float = 0.0
    largest_value: float = 0.0


@dataclass
class FoldReport:
    """What fold_constant_gates did.

    Attributes:
        tolerance, images: as given.
        gates: one entry a gate, first site to last.
        outputs: ``logits``, or the stages' names where the network has no classifier -> its change.
    """

    tolerance: float
    images: int
    gates: list[GateRange] = field(default_factory=list)
    outputs: dict[str, OutputChange] = field(default_factory=dict)

    @property
    def folded(self) -> list[str]:
        """The names of the sites whose gate is gone."""
        return [gate.name for gate in self.gates if gate.folded]

    def as_dict(self) -> dict:
        """Everything, as plain values."""
        return {"folded": self.folded, **asdict(self)}

    def format(self) -> str:
        """The report as lines of text."""
        lines = [f"{len(self.folded)} of {len(self.gates)} gates folded, at most {self.tolerance:g} from their mean"
                 f" over {self.images} images",
                 f"  {'unit':10} {'minimum':>8} {'maximum':>8} {'mean':>8} {'deviation':>10}"]  # fmt: skip
        lines += [
            f"  {gate.name:10} {gate.minimum:8.4f} {gate.maximum:8.4f} {gate.mean:8.4f} {gate.deviation:10.2e}  "
            + ("folded" if gate.folded else f"kept: {gate.reason}")
            for gate in self.gates
        ]
        lines += [
            f"  {name}: changed by at most {change.largest_difference:.3g}, by {change.mean_difference:.3g} in the "
            f"mean; the largest number is {change.largest_value:.3g}"
            for name, change in self.outputs.items()
        ]
        return "\n".join(lines)


def gate_range(name: str, moments: GateMoments) -> GateRange:
    """What a site's gate did, in short. ``name``: of the site."""
    mean = moments.mean
    deviation = torch.maximum(moments.maximum - mean, mean - moments.minimum).max()
    return GateRange(name, *(x.item() for x in (moments.minimum.min(), moments.maximum.max(), mean.mean(), deviation)))


def fold_constant_gates(model: nn.Module, data: Iterable[Tensor], tolerance: float) -> FoldReport:
    """Takes the gates that are nearly constant out of a trained network; their means go into the weights.

    In the last stage gates come close to saturating and tell images apart least (section 7.2 and figure 6 of the
    paper), so that they cost parameters and time for little. A gate of which no channel strays from its mean over
    the images by more than ``tolerance`` is replaced by that mean, which is multiplied into the site's ``absorbers``:

    - ``standard``: the weight and bias of the layer before the gate (in a ResNet the branch's last normalisation);
    - ``inside``: the weight and bias of the normalisation before the ReLU;
    - ``pre``: the input channels of the branch's first convolution;
    - ``identity``: the weight and bias of the shortcut's normalisation, where the shortcut has a projection;
    - nothing, at any placement, where the mean is exactly 1 in every channel.

    The rest is left as it is, and the report says why: a bare shortcut and a unit's output (``post``) have no weight
    that could take up the mean; a tanh's negative mean cannot pass a ReLU that stands before the gate.

    Args:
        model: a backbone, or a model that contains one. It is changed in place, also the network's ``spec``:
            ``spec.se.without`` names the sites without SE, so that create_backbone builds the network anew from it
            and its weights load; with the last gate gone ``spec.se`` is None, and it is the plain row. Optimizers
            and averaged copies are to be made anew. A C4 detector's last stage, which sees regions and not images,
            is left.
        data: batches of images (N, 3, H, W), normalised as the weights want them; walked through twice, so a list or
            a DataLoader. A few hundred images of the kind that the network will see; the gates are known for these
            alone.
        tolerance: in units of the gate, from 0 up. 0: exactly constant gates alone; outputs are then equal to
            rounding.

    Returns:
        the report: every gate's range, folded or why not, and how much the outputs changed on the same images.

    Raises:
        ValueError: tolerance is negative, the data are empty or an iterator that can be walked through once only, or
            the model holds no backbone, or several, or one without SE. Nothing has been changed then.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more; got {tolerance!r}")
    if iter(data) is data:
        raise ValueError("the data are walked through twice: give a list or a DataLoader, not an iterator")
    network = find_network(model)
    with evaluating(network):
        watched, images = watch_gates(network, data)
        before = deepcopy(network)
        report = FoldReport(float(tolerance), images)
        for site in network.se_sites():
            if site.path not in watched:
                continue
            gate, mean = gate_range(site.path, watched[site.path]), watched[site.path].mean
            steady = gate.deviation <= tolerance  # not so for a NaN
            gate.reason = obstacle(site, mean) if steady else f"strays from its mean by {gate.deviation:.3g}"
            if not gate.reason:
                fold_gate(model, site, mean)
                gate.folded = True
            report.gates.append(gate)
        report.outputs = _compare(before, network, data)
    return report


def watch_gates(network: Backbone, data: Iterable[Tensor]) -> tuple[dict[str, GateMoments], int]:
    """What the gates of a network in eval mode do on images.

    Args:
        data: batches (N, 3, H, W), normalised.

    Returns:
        path of each site with a gate, first to last -> what its gate did; and how many images there were.

    Raises:
        ValueError: the network has no gates, or there is no image.
    """
    sites = [site for site in network.se_sites() if site.gate is not None]
    if not sites:
        raise ValueError("the network has no squeeze-and-excitation to fold")
    batches = ((_on_device(network, batch), None) for batch in data)
    watched = record(network.forward_features, sites, batches)
    images = watched[sites[0].path].images
    if not images:
        raise ValueError("the data hold no image")
    return watched, images


def obstacle(site: SESite, mean: Tensor) -> str:
    """Why a gate with this mean, (C,), cannot be folded; empty where it can. Ends the sentence "the gate …"."""
    if (mean == 1).all():
        return ""
    absorbers = site.absorbers()
    if isinstance(absorbers, str):
        return absorbers
    if any(absorber.positive for absorber in absorbers) and (mean < 0).any():
        return "has a negative mean behind a ReLU, which no weight before the ReLU could take up"
    return ""


def fold_gate(model: nn.Module, site: SESite, mean: Tensor) -> None:
    """Takes one gate, for which there is no ``obstacle``, out of a model's network, and says so in the network's
    ``spec``.

    Args:
        mean: (C,), what is put in its place.
    """
    if not (mean == 1).all():
        for absorber in site.absorbers():
            absorber.multiply(mean)
    site.detach()
    network = find_network(model)
    spec = network.spec
    if any(other.gate is not None for other in sites_of(model)):
        hidden = tuple(pair for pair in spec.se.hidden if pair[0] != site.path)
        se = replace(spec.se, without=(*spec.se.without, site.path), hidden=hidden)
        network.spec = replace(spec, se=se)
    else:
        network.spec = replace(spec, name=twin_name(spec, se=False) or spec.name, se=None)


@torch.no_grad()
def _compare(before: Backbone, after: Backbone, data: Iterable[Tensor]) -> dict[str, OutputChange]:
    changes: dict[str, OutputChange] = {}
    numbers: dict[str, int] = {}
    for batch in data:
        batch = _on_device(after, batch)
        theirs = _outputs(before, batch)
        for name, ours in _outputs(after, batch).items():
            change = changes.setdefault(name, OutputChange())
            difference = (ours.double() - theirs[name].double()).abs()
            change.largest_difference = max(change.largest_difference, difference.max().item())
            change.largest_value = max(change.largest_value, theirs[name].abs().max().item())
            change.mean_difference += difference.sum().item()
            numbers[name] = numbers.get(name, 0) + difference.numel()
    for name, change in changes.items():
        change.mean_difference /= numbers[name]
    return changes


def _outputs(network: Backbone, batch: Tensor) -> dict[str, Tensor]:
    return {"logits": network(batch)} if network.num_classes > 0 else network.forward_features(batch)


def _on_device(network: Backbone, batch: Tensor) -> Tensor:
    return batch.to(next(network.parameters()).device)
