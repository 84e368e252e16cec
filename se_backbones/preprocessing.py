"""How an image must be prepared for a set of weights, and whether two ways of saying it are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from se_backbones.errors import WeightsError


@dataclass(frozen=True)
class Preprocessing:
    """``(pixel * scale / 255 - mean) / std`` for each channel, with pixels as 0 … 255.

    Attributes:
        channel_order: ``RGB`` or ``BGR``, of the network's three inputs, and of ``mean`` and ``std``.
        scale: what the largest pixel value is before the mean is subtracted: 1 or 255.
        mean, std: three numbers each, in units of ``scale``.
    """

    channel_order: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self):
        order = str(self.channel_order).upper()
        if order not in ("RGB", "BGR"):
            raise WeightsError(f"preprocessing: channel_order must be RGB or BGR; got {self.channel_order!r}")
        try:
            mean, std = (tuple(float(x) for x in values) for values in (self.mean, self.std))
            scale = float(self.scale)
        except (TypeError, ValueError):
            raise WeightsError(f"preprocessing: scale, mean and std must be numbers; got {self!r}") from None
        numbers = (scale, *mean, *std)
        if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, numbers)) or min(scale, *std) <= 0:
            raise WeightsError(f"preprocessing: mean and std need three numbers, std and scale above 0; got {self!r}")
        for name, value in (("channel_order", order), ("scale", scale), ("mean", mean), ("std", std)):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, value: Preprocessing | Mapping) -> Preprocessing:
        """From a dictionary with these four names (a checkpoint's, a config's).

        Raises:
            WeightsError: a name is missing or a value is out of range.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls(value["channel_order"], value["scale"], value["mean"], value["std"])
        except (KeyError, TypeError) as error:
            raise WeightsError(f"preprocessing needs channel_order, scale, mean and std; {error} is missing") from None

    def as_dict(self) -> dict:
        """Plain values, for JSON and checkpoints."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def _affine(self) -> list[tuple[float, float]]:
        # For a pixel in 0 … 1: slope and offset of each channel, in the network's order.
        return [(self.scale / s, -m / s) for m, s in zip(self.mean, self.std, strict=True)]

    def same_as(self, other: Preprocessing, tolerance: float = 0.01) -> bool:
        """Whether both give the network the same numbers, whatever their scale.

        RGB 0 … 1 with mean 0.485 and RGB 0 … 255 with mean 123.675 are the same. The tolerance is a hundredth of
        the standard deviation in offset and one percent in slope: rounding passes, ImageNet's mean against 0.5
        does not.
        """
        if self.channel_order != other.channel_order:
            return False
        for (slope, offset), (slope2, offset2) in zip(self._affine(), other._affine(), strict=True):
            if abs(slope - slope2) > tolerance * abs(slope) or abs(offset - offset2) > tolerance:
                return False
        return True

    def __str__(self) -> str:
        def numbers(values):
            return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"

        return f"{self.channel_order} 0–{self.scale:g}, mean {numbers(self.mean)}, std {numbers(self.std)}"


IMAGENET_RGB = Preprocessing("RGB", 1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE_BGR = Preprocessing("BGR", 255, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
# Detectron2's configs for FAIR's ResNeXt-101 32×8d (mask_rcnn_X_101_32x8d_FPN_3x.yaml).
FAIR_BGR = Preprocessing("BGR", 255, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
# The release that came with the SE paper (the first lines of its .prototxt files).
SE_RELEASE_BGR = Preprocessing("BGR", 255, (104, 117, 123), (1.0, 1.0, 1.0))
