"""Max pooling of maps without negative numbers, for inference on processors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from se_backbones.surgery.fused_operations import captured


class MaxPoolOfPositive(nn.MaxPool2d):
    """``nn.MaxPool2d`` of maps that a ReLU has made: none of their numbers is negative.

    In bfloat16 such numbers have the order of their bits, taken as whole numbers. Those are compared without being
    converted, rows first, then columns: in half of PyTorch's own time, which looks for the places of the largest, too.
    """

    def __init__(self, like: nn.MaxPool2d):
        super().__init__(like.kernel_size, like.stride, like.padding, like.dilation, False, like.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), channels_last → (N, C, H', W')."""
        if x.dtype != torch.bfloat16 or not x.is_cpu or captured():
            return super().forward(x)
        out = x.view(torch.int16)
        for dim in (2, 3):
            out = self._along(out, dim)
        return out.view(torch.bfloat16)

    def _along(self, x: Tensor, dim: int) -> Tensor:
        """The largest of each window along one dimension."""
        kernel, stride, padding = (
            pair if isinstance(pair, int) else pair[dim - 2] for pair in (self.kernel_size, self.stride, self.padding)
        )
        length = x.shape[dim]
        count = (length + 2 * padding - kernel + (stride - 1 if self.ceil_mode else 0)) // stride + 1
        if self.ceil_mode and (count - 1) * stride >= length + padding:  # a window must begin within the map
            count -= 1
        whole, parts = [], []  # the windows' first numbers, their second ones, and so on; for all windows, or some
        for offset in range(-padding, kernel - padding):
            first, end = max(-(offset // stride), 0), min((length - 1 - offset) // stride + 1, count)
            if first < end:
                taken = slice(first * stride + offset, (end - 1) * stride + offset + 1, stride)
                part = x[(slice(None),) * dim + (taken,)]
                (whole if end - first == count else parts).append((first, part))
        if len(whole) > 1:
            out = torch.maximum(whole.pop()[1], whole.pop()[1])
        else:
            out = x.new_zeros(*x.shape[:dim], count, *x.shape[dim + 1 :]).contiguous(memory_format=torch.channels_last)
        for first, part in (*whole, *parts):
            place = out.narrow(dim, first, part.shape[dim])
            torch.maximum(place, part, out=place)
        return out
