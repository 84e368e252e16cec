"""Squeeze-and-Excitation: the settings and the gate (Hu, Shen and Sun, CVPR 2018, arXiv 1709.01507)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from se_backbones.layers.precision import without_autocast

PLACEMENTS = ("standard", "pre", "post", "identity", "inside")
SQUEEZES = ("avg", "max", "none")
GATES = ("sigmoid", "tanh", "relu")
INITS = ("default", "neutral")
REDUCTION = 16  # section 6.1 of the paper


def natural_key(path: str) -> list:
    """For sorting paths: ``layer4.10`` comes behind ``layer4.2``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path)]


@dataclass(frozen=True)
class SEConfig:
    """How SE is put into a network. A value, not a class of network: ``None`` in its place is the plain network.

    Attributes:
        reduction: r, the bottleneck has C / r channels. One integer; or one for each stage that can carry gates, in
            their order (``(8, 16, 16, 16)`` for a ResNet's four); or a mapping from a stage, by name or number, to
            its own, with 16 where a stage is not named. A mapping is kept as a tuple of pairs. The paper's choice is
            16 (section 6.1, table 10 compares 2, 4, 8, 16, 32).
        placement: where the gate acts. In a residual unit (section 6.5, figure 5): ``standard`` on the residual
            branch before the addition, ``pre`` on the branch's input, ``post`` on the unit's output after the
            ReLU, ``identity`` on the shortcut, ``inside`` behind the normalisation and ReLU of the 3×3 convolution
            (SE_3x3 of the paper's table 15; the first 3×3 of a unit of two). Other networks know ``standard`` alone,
            the place that their family's module describes.
        stages: the stages that carry SE, by name (``res4``) or by the number that their name ends in (4); None for
            all (section 6.4, table 13).
        squeeze: ``avg`` or ``max``, the global pooling (section 6.2, table 11); ``none``, no squeeze: the two layers
            are 1×1 convolutions over the whole map, and each place has its own gate (NoSqueeze, table 16).
        gate: ``sigmoid``, ``tanh`` or ``relu``, the gate's non-linearity (section 6.3, table 12).
        bias: whether the two fully-connected layers have biases. Published weights of timm and of the original
            release have them; section 3.2 of the paper writes the gate without.
        init: ``default``, He initialisation of both layers; ``neutral``, the second layer starts at zero weights,
            so that every gate is one constant at first: 0.5 for sigmoid, 1 for relu, 0 for tanh. (A relu gate's
            bias starts at 1; without a bias relu gives 0 and is refused.)
        without: sites of those stages that carry no SE after all, by path: ``("layer4.2",)`` (see
            fold_constant_gates). Kept sorted.
        hidden: sites whose bottleneck has another width than C / r: ``(("layer4.0", 24),)``, path and channels; a
            mapping too. Kept sorted.

    Raises:
        ValueError: a value outside the ones named above; the message says which and what is allowed. Stages and
            sites are known only together with a network: ``resolved`` checks them.
    """

    reduction: int | tuple = REDUCTION
    placement: str = "standard"
    stages: tuple[str | int, ...] | None = None
    squeeze: str = "avg"
    gate: str = "sigmoid"
    bias: bool = True
    init: str = "default"
    without: tuple[str, ...] = ()
    hidden: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        for field, allowed in (
            ("placement", PLACEMENTS),
            ("squeeze", SQUEEZES),
            ("gate", GATES),
            ("init", INITS),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"SE {field} must be one of {', '.join(allowed)}; got {getattr(self, field)!r}")
        object.__setattr__(self, "reduction", _checked_reduction(self.reduction))
        if self.stages is not None:
            stages = (self.stages,) if isinstance(self.stages, str | int) else tuple(self.stages)
            if wrong := [stage for stage in stages if type(stage) not in (str, int)]:
                raise ValueError(f"SE stages must be names or numbers of stages; got {wrong[0]!r}")
            object.__setattr__(self, "stages", stages)
        paths = (self.without,) if isinstance(self.without, str) else tuple(self.without)
        if wrong := [path for path in paths if not (isinstance(path, str) and path)]:
            raise ValueError(f"SE without must name sites by their paths, as in 'layer4.2'; got {wrong[0]!r}")
        object.__setattr__(self, "without", tuple(sorted(set(paths), key=natural_key)))
        object.__setattr__(self, "hidden", _checked_hidden(self.hidden))
        if self.init == "neutral" and self.gate == "relu" and not self.bias:
            raise ValueError("a relu gate without bias cannot start neutral: it would close the branch for good")

    def resolved(self, sites: Sequence[tuple[str, str]]) -> SEConfig:
        """The same settings in the one form that they have for a network: stages by name, None for all of them;
        reduction as one integer where all are equal, else as a pair for each stage.

        Args:
            sites: (path, stage) of every place of the network that can carry a gate, first to last.

        Raises:
            ValueError: a stage or a path in ``without`` or ``hidden`` that the network does not have, a number of
                reductions that is not the number of its stages, or a width of a site that carries no gate.
        """
        known = tuple(dict.fromkeys(stage for _, stage in sites))
        stages = self.stages
        if stages is not None:
            named = {_named(stage, known) for stage in stages}
            stages = None if named == set(known) else tuple(name for name in known if name in named)
        ratios = self.reduction
        if isinstance(ratios, tuple):
            if isinstance(ratios[0], tuple):
                by_name = {_named(stage, known): ratio for stage, ratio in ratios}
                ratios = tuple(by_name.get(name, REDUCTION) for name in known)
            elif len(ratios) != len(known):
                raise ValueError(
                    f"SE reduction must be one integer of at least 1, or {len(known)}, one for each of "
                    f"{', '.join(known)}; got {ratios!r}"
                )
            ratios = ratios[0] if len(set(ratios)) == 1 else tuple(zip(known, ratios, strict=True))
        paths = [path for path, _ in sites]
        for path in self.without:
            if path not in paths:
                raise ValueError(f"SE without: there is no unit {path}; {_nearest(path, paths)}")
        resolved = replace(self, reduction=ratios, stages=stages)
        gated = [path for path, stage in sites if resolved.at(path, stage)]
        for path, _ in self.hidden:
            if path not in paths:
                raise ValueError(f"SE hidden: there is no unit {path}; {_nearest(path, paths)}")
            if path not in gated:
                raise ValueError(f"SE hidden: {path} carries no gate by the settings for stages and without")
        return resolved

    def reduction_of(self, stage: str) -> int:
        """The reduction ratio of a stage, by name. The settings must be ``resolved`` where there are several."""
        return self.reduction if isinstance(self.reduction, int) else dict(self.reduction)[stage]

    def hidden_of(self, path: str, stage: str, channels: int) -> int:
        """Channels between the two layers of a site's gate: its own width, or C / r by its stage's r, and at least 1.
        The settings must be ``resolved``."""
        return dict(self.hidden).get(path, max(channels // self.reduction_of(stage), 1))

    def at(self, path: str, stage: str) -> bool:
        """Whether the site carries a gate. The settings must be ``resolved``."""
        return (self.stages is None or stage in self.stages) and path not in self.without


def _checked_reduction(value) -> int | tuple:
    """One integer, a tuple of integers, or a tuple of (stage, integer)."""
    if isinstance(value, Mapping):
        value = tuple(value.items())
    many = tuple(value) if _is_list(value) else (value,)
    pairs = [tuple(item) for item in many if _is_list(item)]
    ratios = [pair[-1] for pair in pairs] if pairs else many
    right_form = all(len(pair) == 2 and type(pair[0]) in (str, int) for pair in pairs) and len(pairs) in (0, len(many))
    if not many or not right_form or any(type(ratio) is not int or ratio < 1 for ratio in ratios):
        raise ValueError(
            f"SE reduction must be one integer of at least 1, or one for each stage, in order or by name; got {value!r}"
        )
    if pairs:
        return tuple(pairs)
    return many[0] if len(many) == 1 else many


def _is_list(value) -> bool:
    """Lists of any kind: a config's may be none of Python's own."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def _checked_hidden(value) -> tuple[tuple[str, int], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        found = dict(pairs)
        right = len(found) == len(pairs) and all(
            isinstance(path, str) and path and type(width) is int and width >= 1 for path, width in found.items()
        )
    except (TypeError, ValueError):
        right = False
    if not right:
        raise ValueError(
            f"SE hidden must be pairs of a site's path, once each, and its channels, 1 or more, as in ('layer4.0', 24);"
            f" got {value!r}"
        )
    return tuple(sorted(found.items(), key=lambda pair: natural_key(pair[0])))


def _named(stage: str | int, known: Sequence[str]) -> str:
    """The name of a stage given by name or by the number that its name ends in."""
    for name in known:
        number = re.search(r"\d+$", name)
        if stage == name or (number and str(stage) == number[0]):
            return name
    raise ValueError(f"SE: there is no stage {stage!r} that could carry gates; there are {', '.join(known)}")


def _nearest(path: str, paths: Sequence[str]) -> str:
    parent = path.rpartition(".")[0]
    beside = [other for other in paths if other.rpartition(".")[0] == parent]
    if beside:
        return f"{parent} has {beside[0]}" + (f" to {beside[-1]}" if len(beside) > 1 else "")
    return f"they are {', '.join(paths[:3])}, …, {paths[-1]}"


def channel_sums(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, C, 1, 1), in the map's type, but float32 for fp16, which would overflow.

    Before a division it is better than mean(): its gradient stays a broadcast view, where mean() would write out a
    whole map, in another memory format than x's. So would a sum of another type, which autocast takes on GPUs unless a
    type is named; on CPUs it would copy the map.
    """
    return x.sum((2, 3), keepdim=True, dtype=torch.float32 if x.dtype == torch.float16 else x.dtype)


def gate_of(name: str) -> Callable[[Tensor], Tensor]:
    """The gate's non-linearity, by its name in GATES."""
    return {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu}[name]


class FullyConnected(nn.Conv2d):
    """A fully-connected layer with a 1×1 convolution's weights, for maps of one place: as a matrix product it takes a
    third of the time that PyTorch's convolution and its gradient take for a few numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, 1, 1) → (N, C_out, 1, 1)."""
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


class SEGate(nn.Module):
    """Squeeze and excitation: computes the gate, and leaves the scaling to the caller, who can fuse it.

    ``gate(W2 · relu(W1 · z + b1) + b2)`` with ``z`` the global pooling of the input (equations 2 and 3), or the input
    itself without a squeeze. The two fully-connected layers are kept as 1×1 convolutions, ``fc1: (C/r, C, 1, 1)`` and
    ``fc2: (C, C/r, 1, 1)``, the form in which most published weights come.

    Args:
        channels: C, the channels of the map that is squeezed and of the gate.
        config: the settings; ``placement`` and ``stages`` are the caller's concern.
        hidden: channels between the two layers, C/r.
    """

    def __init__(self, channels: int, config: SEConfig, hidden: int):
        super().__init__()
        layer = nn.Conv2d if config.squeeze == "none" else FullyConnected
        self.fc1 = layer(channels, hidden, 1, bias=config.bias)
        self.fc2 = layer(hidden, channels, 1, bias=config.bias)
        self.squeeze = config.squeeze
        self.gate = config.gate
        self.init = config.init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation for ``fc1``; ``fc2`` by its fan-in with gain 1, or neutral (see SEConfig). Biases 0."""
        if self.fc1.weight.is_meta:  # as in Backbone.initialise
            return
        nn.init.kaiming_normal_(self.fc1.weight, mode="fan_in", nonlinearity="relu")
        nn.init.kaiming_normal_(self.fc2.weight, mode="fan_in", nonlinearity="linear")
        for fc in (self.fc1, self.fc2):
            if fc.bias is not None:
                nn.init.zeros_(fc.bias)
        if self.init == "neutral":
            self.make_constant()

    @torch.no_grad()
    def make_constant(self) -> float:
        """Zeroes ``fc2``, so that the gate is one constant whatever the input, and returns it: 0.5 for sigmoid, 1 for
        relu (by its bias), 0 for tanh."""
        self.fc2.weight.zero_()
        if self.fc2.bias is not None:
            self.fc2.bias.fill_(1.0 if self.gate == "relu" else 0.0)
        return {"sigmoid": 0.5, "relu": 1.0, "tanh": 0.0}[self.gate]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the gate, (N, C, 1, 1), or (N, C, H, W) without a squeeze: in (0, 1) for sigmoid, (-1, 1)
        for tanh, from 0 up for relu. What follows a squeeze is a few numbers, which autocast leaves in the type of the
        weights."""
        if self.squeeze == "avg":
            z = channel_sums(x) / (x.shape[2] * x.shape[3])
        elif self.squeeze == "max":
            z = x.amax((2, 3), keepdim=True)
        else:
            return self._excite(x)
        z = z.to(self.fc1.weight.dtype)
        with without_autocast(x):
            return self._excite(z).to(x.dtype)

    def _excite(self, z: Tensor) -> Tensor:
        return gate_of(self.gate)(self.fc2(torch.relu(self.fc1(z))))

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, gate={self.gate}"
