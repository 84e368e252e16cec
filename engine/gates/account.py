"""From the recorder's moments to plain values: what ``gates.json`` holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from se_backbones.backbone import SESite
from se_backbones.surgery.gates import HIGH, LOW, GateMoments, absorbed_scale

CHANNELS = 64  # of a gate, whose means are told class by class
DIGITS = 5
MEANINGS = {
    "mean": "over images, and over channels",
    "deviation": "standard deviation over the images, of any class (root mean square over channels)",
    "between": "standard deviation of the classes' means (root mean square over channels)",
    "within": "standard deviation within a class (root mean square over classes and channels)",
    "separation": "variance between classes over variance within; near 1 / images of a class where they do not differ",
    "above": f"share of the values whose size is above {HIGH}",
    "below": f"share of the values whose size is below {LOW}",
    "always_on": f"channels all of whose values are above {HIGH} in size, on these images",
    "always_off": f"channels all of whose values are below {LOW} in size, on these images",
    "scale_correlation": "Pearson's, over the channels, of the mean gate with |weight| of the normalisation that would "
    "take up a constant gate; none where there is no such normalisation (scale says why), or no spread",
}


def account(site: SESite, moments: GateMoments) -> dict:
    """What a gate did, as plain values; the names are those of ``MEANINGS``, by channel under ``by_channel``.

    ``by_class`` has the mean of each class, at most ``CHANNELS`` channels of it, evenly drawn; None stands for a class
    of no image. Spreads between and within are of classes of two images or more.
    """
    scale = absorbed_scale(site)
    channels = len(moments.mean)
    shown = even(channels, CHANNELS)
    squares = {"deviation": moments.variance, "between": moments.between, "within": moments.within}
    by_channel = {"mean": moments.mean, **{name: square.sqrt() for name, square in squares.items()}}
    by_channel |= {"minimum": moments.minimum, "maximum": moments.maximum}
    by_channel |= {"above": moments.high / moments.values, "below": moments.low / moments.values}
    has_scale = not isinstance(scale, str)
    if has_scale:
        by_channel["scale"] = scale
    return {
        "path": site.path,
        "stage": site.stage,
        "placement": site.placement,
        "gate": site.gate.gate,
        "squeeze": site.gate.squeeze,
        "channels": channels,
        "images": moments.images,
        "values": moments.values,
        "mean": _plain(moments.mean.mean()),
        **{name: _plain(square.mean().sqrt()) for name, square in squares.items()},
        "separation": _plain(moments.separation()),
        "above": _plain(by_channel["above"].mean()),
        "below": _plain(by_channel["below"].mean()),
        "always_on": moments.always_on.nonzero()[:, 0].tolist(),
        "always_off": moments.always_off.nonzero()[:, 0].tolist(),
        "scale_correlation": _plain(correlation(moments.mean, scale)) if has_scale else None,
        "scale": "of the normalisation that is its absorber" if has_scale else f"none: the gate {scale}",
        "by_channel": {name: _plain(values) for name, values in by_channel.items()},
        "by_class": {"channels": shown, "mean": _plain(moments.class_mean[:, shown])},
    }


def even(count: int, most: int) -> list[int]:
    """Whole numbers below ``count``, evenly drawn, first and last among them; all where there are no more."""
    return sorted(set(torch.linspace(0, count - 1, min(most, count), dtype=torch.float64).round().int().tolist()))


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Pearson's correlation of two vectors, -1..1; None where one of them does not vary."""
    first, second = first - first.mean(), second - second.mean()
    size = (first.square().sum() * second.square().sum()).sqrt().item()
    return (first * second).sum().item() / size if size > 1e-12 else None


def _plain(value: Tensor | Sequence | float | None):
    """Numbers as JSON has them, rounded; None for those that are not finite."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value is None or not math.isfinite(value) else round(value, DIGITS)
