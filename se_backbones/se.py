"""Squeeze-and-Excitation: the settings and the gate (Hu, Shen and Sun, CVPR 2018, arXiv 1709.01507)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PLACEMENTS = ("standard", "pre", "post", "identity")
SQUEEZES = ("avg", "max")
GATES = ("sigmoid", "tanh", "relu")
INITS = ("default", "neutral")
STAGES = (2, 3, 4, 5)
_UNIT = re.compile(r"layer[1-4]\.(0|[1-9]\d*)")


def unit_key(name: str) -> tuple[int, int]:
    """A unit's place, for sorting: ``layer4.10`` comes behind ``layer4.2``."""
    layer, _, index = name.removeprefix("layer").partition(".")
    return int(layer), int(index)


@dataclass(frozen=True)
class SEConfig:
    """How SE is put into a network. A value, not a class of network: ``None`` in its place is the plain network.

    Attributes:
        reduction: r, the bottleneck has C / r channels; one integer, or four, for res2, res3, res4, res5.
            The paper's choice is 16 (section 6.1, table 10 compares 2, 4, 8, 16, 32).
        placement: where the gate acts in a residual unit (section 6.5, figure 5): ``standard`` on the residual
            branch before the addition, ``pre`` on the branch's input, ``post`` on the unit's output after the
            ReLU, ``identity`` on the shortcut.
        stages: the stages that carry SE, any of 2, 3, 4, 5 (section 6.4, table 13).
        squeeze: ``avg`` or ``max``, the global pooling (section 6.2, table 11).
        gate: ``sigmoid``, ``tanh`` or ``relu``, the gate's non-linearity (section 6.3, table 12).
        bias: whether the two fully-connected layers have biases. Published weights of timm and of the original
            release have them; section 3.2 of the paper writes the gate without.
        init: ``default``, He initialisation of both layers; ``neutral``, the second layer starts at zero weights,
            so that every gate is one constant at first: 0.5 for sigmoid, 1 for relu, 0 for tanh. (A relu gate's
            bias starts at 1; without a bias relu gives 0 and is refused.)
        without: units of those stages that carry no SE after all, by name: ``("layer4.2",)`` (see
            fold_constant_gates). Kept sorted.

    Raises:
        ValueError: a value outside the ones named above; the message says which and what is allowed.
    """

    reduction: int | tuple[int, int, int, int] = 16
    placement: str = "standard"
    stages: tuple[int, ...] = STAGES
    squeeze: str = "avg"
    gate: str = "sigmoid"
    bias: bool = True
    init: str = "default"
    without: tuple[str, ...] = ()

    def __post_init__(self):
        for field, allowed in (
            ("placement", PLACEMENTS),
            ("squeeze", SQUEEZES),
            ("gate", GATES),
            ("init", INITS),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"SE {field} must be one of {', '.join(allowed)}; got {getattr(self, field)!r}")
        if isinstance(self.reduction, list):
            object.__setattr__(self, "reduction", tuple(self.reduction))
        ratios = self.reduction if isinstance(self.reduction, tuple) else (self.reduction,)
        if len(ratios) not in (1, 4) or any(type(r) is not int or r < 1 for r in ratios):
            raise ValueError(
                f"SE reduction must be one integer of at least 1, or four (res2..res5); got {self.reduction!r}"
            )
        if len(ratios) == 1:
            object.__setattr__(self, "reduction", ratios[0])
        object.__setattr__(self, "stages", tuple(self.stages))
        if not set(self.stages) <= set(STAGES):
            raise ValueError(f"SE stages must be among {STAGES}; got {self.stages!r}")
        names = (self.without,) if isinstance(self.without, str) else tuple(self.without)
        if wrong := [name for name in names if not (isinstance(name, str) and _UNIT.fullmatch(name))]:
            raise ValueError(f"SE without must name residual units, as in 'layer4.2'; got {wrong[0]!r}")
        object.__setattr__(self, "without", tuple(sorted(set(names), key=unit_key)))
        if self.init == "neutral" and self.gate == "relu" and not self.bias:
            raise ValueError("a relu gate without bias cannot start neutral: it would close the branch for good")

    def reduction_of(self, stage: int) -> int:
        """The reduction ratio of stage 2, 3, 4 or 5."""
        return self.reduction[stage - 2] if isinstance(self.reduction, tuple) else self.reduction

    def check_units(self, depths: tuple[int, ...]) -> None:
        """Raises ValueError where ``without`` names a unit that a network of these depths (res2 … res5) lacks: a slip
        of the pen must not pass unseen."""
        for name in self.without:
            layer, index = unit_key(name)
            if index >= depths[layer - 1]:
                raise ValueError(
                    f"SE without: there is no unit {name}; layer{layer} has {depths[layer - 1]}, from 0 on"
                )

    def at(self, stage: int, index: int) -> bool:
        """Whether unit ``index``, counted from 0, of stage 2, 3, 4 or 5 carries SE."""
        return stage in self.stages and f"layer{stage - 1}.{index}" not in self.without


class SEGate(nn.Module):
    """Squeeze and excitation: computes the gate, and leaves the scaling to the caller, who can fuse it.

    ``gate(W2 · relu(W1 · z + b1) + b2)`` with ``z`` the global pooling of the input (equations 2 and 3). The two
    fully-connected layers are kept as 1×1 convolutions, ``fc1: (C/r, C, 1, 1)`` and ``fc2: (C, C/r, 1, 1)``, the
    form in which most published weights come.

    Args:
        channels: C, the channels of the map that is squeezed and of the gate.
        config: the settings; ``placement`` and ``stages`` are the caller's concern.
        reduction: r for this place.
    """

    def __init__(self, channels: int, config: SEConfig, reduction: int):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=config.bias)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=config.bias)
        self.squeeze = config.squeeze
        self.gate = config.gate
        self.init = config.init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation for ``fc1``; ``fc2`` by its fan-in with gain 1, or neutral (see SEConfig). Biases 0."""
        nn.init.kaiming_normal_(self.fc1.weight, mode="fan_in", nonlinearity="relu")
        nn.init.kaiming_normal_(self.fc2.weight, mode="fan_in", nonlinearity="linear")
        for fc in (self.fc1, self.fc2):
            if fc.bias is not None:
                nn.init.zeros_(fc.bias)
        if self.init == "neutral":
            nn.init.zeros_(self.fc2.weight)
            if self.gate == "relu":
                nn.init.ones_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the gate, (N, C, 1, 1): in (0, 1) for sigmoid, (-1, 1) for tanh, from 0 up for relu."""
        if self.squeeze == "avg":
            # A sum and then the division: its gradient stays a broadcast view, where mean() would write out a whole
            # map, in another memory format than x's. fp16 alone would overflow.
            total = x.sum((2, 3), keepdim=True, dtype=torch.float32 if x.dtype == torch.float16 else None)
            z = (total / (x.shape[2] * x.shape[3])).to(x.dtype)
        else:
            z = x.amax((2, 3), keepdim=True)
        s = self.fc2(torch.relu(self.fc1(z)))
        if self.gate == "sigmoid":
            return torch.sigmoid(s)
        return torch.tanh(s) if self.gate == "tanh" else torch.relu(s)

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, gate={self.gate}"
