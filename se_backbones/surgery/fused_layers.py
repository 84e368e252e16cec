"""Operations of fused networks, for inference: a convolution with the sum and the ReLU behind it, and a gated sum whose
gate is known before its convolution has run.

On processors oneDNN does each convolution with what follows as one operation (PyTorch's own compiler calls the same
ones); everywhere else, and where a graph is captured, they are plain operations that compute the same.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from se_backbones.se import SEGate, channel_sums, gate_of

# How oneDNN calls what may follow a convolution.
ACTIVATIONS = {"": ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0])}

# When the gate goes into the weights, so that the map is written once, as measured on two cores: a map's places by the
# convolution's input channels, for weights are scaled and put in order in more time than a map is passed over; and the
# elements of one image's map from which on a batch is computed image by image, for a call takes its time.
PASSES = 4
ALONE_FROM = 1 << 20


class FusedConv2d(nn.Module):
    """A convolution, the sum with another map where one is given, and an activation.

    Its weights are buffers: it cannot be trained.

    Args:
        weight: (C_out, C_in / groups, kh, kw).
        bias: (C_out,).
        like: the convolution whose stride, padding, dilation and groups it takes.

    Attributes:
        activation: a key of ACTIVATIONS. Behind a sum: none or ``relu``.
        overwrites: the other map is nobody else's, and its memory may hold the result.

    Raises:
        ValueError: padding by the name ``same`` that is not the same on both sides.
    """

    def __init__(self, weight: Tensor, bias: Tensor, like: nn.Conv2d):
        super().__init__()
        self.register_buffer("weight", weight.detach().contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.detach())
        padding = like.padding
        if isinstance(padding, str):
            sides = [d * (k - 1) for d, k in zip(like.dilation, like.kernel_size, strict=True)]
            if padding == "same" and any(side % 2 for side in sides):
                raise ValueError(f"a convolution of {tuple(like.kernel_size)} padded by 'same' has uneven borders")
            padding = [side // 2 for side in sides] if padding == "same" else [0, 0]
        self.stride, self.padding, self.dilation = list(like.stride), list(padding), list(like.dilation)
        self.groups = like.groups
        self.activation = ""
        self.overwrites = False
        self._packed: Tensor | None = None  # the weight in the order that oneDNN works in

    @property
    def pointwise(self) -> bool:
        """Whether it is a 1×1 convolution that leaves the size as it is."""
        return self.weight.shape[2:] == (1, 1) and self.stride == [1, 1] and self.padding == [0, 0]

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W), and another map of the result's shape → (N, C_out, H', W')."""
        return self._run(x, other, self.weight, self.bias, self.activation, pack=True)

    def alone(self, x: Tensor) -> Tensor:
        """The convolution without what comes behind it."""
        return self._run(x, None, self.weight, self.bias, "", pack=True)

    def scaled(self, x: Tensor, factor: Tensor, other: Tensor) -> Tensor:
        """As ``forward`` for one image, the convolution's result times a factor, (C_out,), ahead of the sum: the factor
        goes into the weights."""
        return self._run(
            x, other, self.weight * factor.view(-1, 1, 1, 1), self.bias * factor, self.activation, pack=False
        )

    def activate(self, x: Tensor) -> Tensor:
        """The activation, in place."""
        if self.activation == "relu6":
            return x.clamp_(0, 6)
        if self.activation and x.dtype == torch.bfloat16 and has_onednn(x):
            # As numbers of 16 bits those below zero are below zero too; several times as fast as to compute in bf16.
            # NaN with a sign comes out as 0, as from oneDNN.
            x.view(torch.int16).clamp_min_(0)
            return x
        return x.relu_() if self.activation else x

    def _run(
        self, x: Tensor, other: Tensor | None, weight: Tensor, bias: Tensor, activation: str, pack: bool
    ) -> Tensor:
        if not has_onednn(x):
            out = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            out = out if other is None else out.add_(other)
            return self.activate(out) if activation else out
        how = (self.padding, self.stride, self.dilation, self.groups)
        ops = torch.ops.mkldnn
        if pack:
            if self._packed is None:
                where = (self.padding, self.stride, self.dilation, self.groups, list(x.shape))
                self._packed = ops._reorder_convolution_weight(weight, *where)
            weight = self._packed
        name, numbers = ACTIVATIONS[activation]
        if other is None:
            return ops._convolution_pointwise(x, weight, bias, *how, name, numbers, "")
        name = None if name == "none" else name
        if self.overwrites:
            return ops._convolution_pointwise_(other, x, weight, bias, *how, "add", 1.0, name, [], "")
        return ops._convolution_pointwise(x, other, weight, bias, *how, "add", 1.0, name, [], "")

    def _apply(self, fn, recurse=True):  # to another device or type
        self._packed = None
        return super()._apply(fn, recurse)

    def __getstate__(self):  # oneDNN's own tensors can be neither copied nor pickled
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        shape = " × ".join(map(str, self.weight.shape))
        return f"{shape}, stride={self.stride}, padding={self.padding}" + (
            f", {self.activation}" if self.activation else ""
        )


class GatedSum(nn.Module):
    """``shortcut + factor * gate * branch``, then ReLU where asked for; ``branch`` is what a convolution gives, and the
    gate that of the branch.

    The mean of a 1×1 convolution's output is the convolution of its input's mean. So the gate of the branch is known
    before the convolution runs, from a map that is narrower; the gate's first layer and the convolution are one matrix.
    Where a map is large the gate goes into the convolution's weights, image by image, and everything is one operation;
    else it is a multiply-add in place.

    Args:
        conv: without an activation.
        se: a gate with a squeeze.
        relu: whether a ReLU ends it.
        factor: a constant beside the gate.
        overwrites: the shortcut is nobody else's, and its memory may hold the result.
    """

    def __init__(self, conv: FusedConv2d, se: SEGate, relu: bool, factor: float = 1.0, overwrites: bool = False):
        super().__init__()
        self.conv, self.se = conv, se
        conv.activation, conv.overwrites = "relu" if relu else "", overwrites
        self.factor = factor
        self.early = conv.pointwise and se.squeeze == "avg"
        if self.early:
            weight, bias = (x.double() for x in (conv.weight, conv.bias))
            # A grouped convolution's filters see their own input channels alone.
            dense = torch.block_diag(*weight.flatten(1).chunk(conv.groups))
            first, second = (fc.weight.detach().double().flatten(1) for fc in (se.fc1, se.fc2))
            shifts = [0 if fc.bias is None else fc.bias.detach().double() for fc in (se.fc1, se.fc2)]
            layers = {"first": first @ dense, "shift1": first @ bias + shifts[0], "second": second}
            layers["shift2"] = torch.zeros_like(bias) + shifts[1]
            for name, tensor in layers.items():
                self.register_buffer(name, tensor.to(torch.promote_types(se.fc1.weight.dtype, torch.float32)))
            self.activation, self.se = se.gate, None

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(N, C_in, H, W) and (N, C_out, H', W') → (N, C_out, H', W')."""
        if not self.early:
            branch = self.conv.alone(x)
            return self._plain(branch, self.se(branch) * self.factor, shortcut)
        gate = self.gate(x)
        if not self._in_weights(x):
            return self._plain(self.conv.alone(x), gate[:, :, None, None], shortcut)
        if len(x) == 1:
            return self.conv.scaled(x, gate[0], shortcut)
        parts = [self.conv.scaled(x[i : i + 1], gate[i], shortcut[i : i + 1]) for i in range(len(x))]
        return shortcut if self.conv.overwrites else torch.cat(parts)

    def gate(self, x: Tensor) -> Tensor:
        """The gate of the branch, (N, C_out), times the factor, from the convolution's input. The two layers, a few
        numbers, are computed in float32."""
        mean = channel_sums(x).flatten(1).to(self.first.dtype) / (x.shape[2] * x.shape[3])
        gate = F.linear(F.linear(mean, self.first, self.shift1).relu_(), self.second, self.shift2)
        gate = gate_of(self.activation)(gate)
        return (gate if self.factor == 1 else gate * self.factor).to(x.dtype)

    def _in_weights(self, x: Tensor) -> bool:
        """Whether the gate goes into the weights: where that is less work than another pass over the map, and a graph
        that is captured need not be for any number of images."""
        places, (outputs, inputs) = x.shape[2] * x.shape[3], self.conv.weight.shape[:2]
        large = places > PASSES * inputs and (len(x) == 1 or places * outputs >= ALONE_FROM)
        return large and not torch.compiler.is_compiling() and not torch.jit.is_tracing()

    def _plain(self, branch: Tensor, gate: Tensor, shortcut: Tensor) -> Tensor:
        if self.conv.overwrites:
            return self.conv.activate(shortcut.addcmul_(branch, gate))
        return self.conv.activate(torch.addcmul(shortcut, branch, gate))


def has_onednn(x: Tensor) -> bool:
    """Whether oneDNN's fused convolutions take a map: on a processor, of its type, outside of gradients and graphs."""
    return (
        x.device.type == "cpu"
        and not (x.requires_grad and torch.is_grad_enabled())
        and torch.backends.mkldnn.enabled
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and _works_with(x.dtype)
    )


@functools.cache
def _works_with(dtype: torch.dtype) -> bool:
    """Whether the operations are there and right for a type, by trying each of them."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    x, other = (torch.arange(n, n + 64.0).view(1, 16, 2, 2).to(dtype) / 64 - 0.5 for n in (0, 7))
    x, other = (one.contiguous(memory_format=torch.channels_last) for one in (x, other))
    weight, bias = (torch.eye(16) * 2).view(16, 16, 1, 1).to(dtype), torch.full((16,), 0.25, dtype=dtype)
    how = ([0, 0], [1, 1], [1, 1], 1)  # padding, stride, dilation, groups
    plain = F.conv2d(x, weight, bias)
    behind = {"": plain, "relu": plain.relu(), "relu6": plain.clamp(0, 6)}
    try:
        ops = torch.ops.mkldnn
        packed = ops._reorder_convolution_weight(weight, *how, list(x.shape))
        found = [
            (ops._convolution_pointwise(x, packed, bias, *how, name, numbers, ""), behind[activation])
            for activation, (name, numbers) in ACTIVATIONS.items()
        ]
        binary = ("add", 1.0, "relu", [], "")
        found.append((ops._convolution_pointwise(x, other, packed, bias, *how, *binary), (plain + other).relu()))
        found.append((ops._convolution_pointwise_(other, x, packed, bias, *how, *binary), found[-1][1]))
        return all(torch.allclose(ours, expected, atol=0.02) for ours, expected in found)
    except (RuntimeError, AttributeError):
        return False
