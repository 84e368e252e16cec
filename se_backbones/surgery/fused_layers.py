"""Operations of fused networks, for inference: a convolution with the sum and the ReLU behind it, and a gated sum whose
gate is known before its convolution has run.

On processors oneDNN does each convolution with what follows as one operation (PyTorch's own compiler calls the same
ones), and on NVIDIA's GPUs cuDNN a convolution with its ReLU, and with a sum before it; everywhere else, and where a
graph is captured, they are plain operations that compute the same.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from se_backbones.layers.gated import kernels_for
from se_backbones.se import SEGate, channel_sums, gate_of
from se_backbones.surgery import gated_product, winograd
from se_backbones.surgery.fused_operations import (
    ACTIVATIONS,
    captured,
    has_amx,
    has_cudnn,
    has_onednn,
    multiplies_faster,
    packed_matrix,
    product,
)

# When the gate goes into the weights, so that the map is written once, as measured on two cores: a map's places by the
# convolution's input channels, for weights are scaled and put in order in more time than a map is passed over; and the
# elements of one image's map from which on a batch is computed image by image, for a call takes its time.
PASSES = 4
ALONE_FROM = 1 << 20

# Where a 3×3 convolution is Winograd's, as measured on two cores: its channels, for with fewer the tiles' transforms
# cost more than they save, and with more the filters, four times as large, are read for few tiles; and the least of
# tiles.
TILED_CHANNELS = range(128, 257)
TILED_FROM = 16

# On GPUs: the elements of a map from which on Triton's gated sum is worth its launch, which takes the host longer than
# PyTorch's own. Reckoned, not measured: it saves four passes, 7 microseconds in 16 bits at an H200's 4.3 TB/s.
KERNEL_FROM = 1 << 22


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
        tiled: the types in which it may be Winograd's. In bf16 that has twice the rounding error of a direct one,
            which is too much for those that stand one behind the other in a network.

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
        self.tiled = (torch.float32,)
        self._ordered: dict[str, Any] = {}  # by `order`
        self._cudnn = self.groups == 1  # False also once cuDNN has refused it

    @property
    def pointwise(self) -> bool:
        """Whether it is a 1×1 convolution that leaves the size as it is."""
        return self._sees_one_place and self.stride == [1, 1]

    @property
    def _sees_one_place(self) -> bool:
        """Whether each of its results is of one place of the map."""
        return self.weight.shape[2:] == (1, 1) and self.padding == [0, 0]

    def takes_cudnn(self, x: Tensor) -> bool:
        """Whether cuDNN does the convolution of a map and the ReLU behind it as one operation, as far as is known."""
        return self._cudnn and self.activation == "relu" and has_cudnn(x)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W), and another map of the result's shape → (N, C_out, H', W')."""
        return self._run(x, other, self.weight, self.bias, self.activation, pack=True)

    def alone(self, x: Tensor) -> Tensor:
        """The convolution without what comes behind it."""
        return self._run(x, None, self.weight, self.bias, "", pack=True)

    def without_bias(self, x: Tensor) -> Tensor:
        """The convolution without its bias and what comes behind it."""
        return F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def scaled(self, x: Tensor, factor: Tensor, other: Tensor) -> Tensor:
        """As ``forward`` for one image, the convolution's result times a factor, (C_out,), ahead of the sum: the factor
        goes into the weights."""
        return self._run(
            x, other, self.weight * factor.view(-1, 1, 1, 1), self.bias * factor, self.activation, pack=False
        )

    def order(self, name: str, order: Callable[..., Any], *what: Any) -> Any:
        """``order(*what)``, weights in an order that an operation works in; done once, and again where the weights go
        to another device or type."""
        if name not in self._ordered:
            self._ordered[name] = order(*what)
        return self._ordered[name]

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
            out = self._run_cudnn(x, other, weight, bias) if activation == "relu" and self.takes_cudnn(x) else None
            if out is not None:
                return out
            out = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            return self._behind(out, other, activation)
        if pack and self._tiled(x):
            filters = self.order("filters", winograd.transformed, weight)
            return self._behind(winograd.convolve(x, filters, bias, tuple(self.padding)), other, activation)
        # With a sum, which the product does not do in place, the convolution is as fast.
        if other is None and self._sees_one_place and self.groups == 1 and multiplies_faster(x):
            matrix = self.order("matrix", packed_matrix, weight)
            return product(x, matrix, bias, activation, self.stride)
        ops = torch.ops.mkldnn
        how = (self.padding, self.stride, self.dilation, self.groups)
        if pack:
            weight = self.order("packed", ops._reorder_convolution_weight, weight, *how, list(x.shape))
        name, numbers = ACTIVATIONS[activation]
        if other is None:
            return ops._convolution_pointwise(x, weight, bias, *how, name, numbers, "")
        name = None if name == "none" else name
        if self.overwrites:
            return ops._convolution_pointwise_(other, x, weight, bias, *how, "add", 1.0, name, [], "")
        return ops._convolution_pointwise(x, other, weight, bias, *how, "add", 1.0, name, [], "")

    def _behind(self, out: Tensor, other: Tensor | None, activation: str) -> Tensor:
        """What comes behind the convolution, in place, by operations of its own."""
        out = out if other is None else out.add_(other)
        return self.activate(out) if activation else out

    def _tiled(self, x: Tensor) -> bool:
        """Whether Winograd's convolution takes less time than oneDNN's, on a processor."""
        return (
            self.weight.shape[2:] == (3, 3)
            and self.stride == self.dilation == [1, 1]
            and self.groups == 1
            and all(channels in TILED_CHANNELS for channels in self.weight.shape[:2])
            and x.dtype in self.tiled
            and not (x.dtype == torch.bfloat16 and has_amx())
            and winograd.tiles_of(x, tuple(self.padding)) >= TILED_FROM
        )

    def _run_cudnn(self, x: Tensor, other: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor | None:
        """With the ReLU; None where cuDNN has no such convolution, and from then on nobody asks it."""
        how = (self.stride, self.padding, self.dilation, self.groups)
        try:
            if other is None:
                return torch.cudnn_convolution_relu(x, weight, bias, *how)
            return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *how)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._cudnn = False
            return None

    def _apply(self, fn, recurse=True):  # to another device or type
        self._ordered = {}
        return super()._apply(fn, recurse)

    def __getstate__(self):  # oneDNN's own tensors can be neither copied nor pickled
        return {**self.__dict__, "_ordered": {}}

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
    In bf16 on processors with AMX all is one operation then, the gate too (``gated_product``). Elsewhere, where a map
    is large, the gate goes into the convolution's weights, image by image, and the rest is one operation; else it is a
    multiply-add in place.

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
            return self._over_map(branch, self.se(branch) * self.factor, shortcut)
        if self.conv.groups == 1 and has_onednn(x) and gated_product.takes(x, self.conv.weight, shortcut):
            return self._as_one(x, shortcut)
        gate = self.gate(x)
        if not self._in_weights(x):
            # cuDNN would add the bias in a pass of its own.
            if has_cudnn(x) and (kernels := _kernels(shortcut)):
                gate, bias, relu = gate[:, :, None, None], self.conv.bias, self.conv.activation == "relu"
                return kernels.forward(shortcut, self.conv.without_bias(x), gate, relu, bias)
            return self._over_map(self.conv.alone(x), gate[:, :, None, None], shortcut)
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

    def _as_one(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """All as one operation; the gate in float32 to the end."""
        conv = self.conv
        return gated_product.run(
            x,
            conv.order("tiles", gated_product.in_tiles, conv.weight),
            conv.order("bias", Tensor.float, conv.bias),
            conv.order("gate", gated_product.in_lanes, self.first, self.shift1, self.second, self.shift2),
            self.activation,
            self.factor,
            shortcut,
            conv.activation == "relu",
            shortcut if conv.overwrites else None,
        )

    def _in_weights(self, x: Tensor) -> bool:
        """Whether the gate goes into the weights: where that is less work than another pass over the map, and a graph
        that is captured need not be for any number of images."""
        if captured():
            return False
        if self.conv.takes_cudnn(x):  # two passes over the weights are less there than those over the map
            return len(x) == 1
        places, (outputs, inputs) = x.shape[2] * x.shape[3], self.conv.weight.shape[:2]
        return x.is_cpu and places > PASSES * inputs and (len(x) == 1 or places * outputs >= ALONE_FROM)

    def _over_map(self, branch: Tensor, gate: Tensor, shortcut: Tensor) -> Tensor:
        """The sum of the convolution's result, nobody else's, and the shortcut."""
        if kernels := _kernels(branch):
            return kernels.forward(shortcut, branch, gate, self.conv.activation == "relu", out=branch)
        if self.conv.overwrites:
            return self.conv.activate(shortcut.addcmul_(branch, gate))
        return self.conv.activate(torch.addcmul(shortcut, branch, gate))


def _kernels(x: Tensor) -> ModuleType | None:
    """The gated sum's own kernels; on GPUs where maps are large enough for them."""
    return None if captured() or (x.is_cuda and x.numel() < KERNEL_FROM) else kernels_for(x)
