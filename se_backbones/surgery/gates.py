"""``record``: what the gates of a trained network do on images, channel by channel and class by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from se_backbones.backbone import SESite
from se_backbones.layers.norm import BATCH_NORMS

HIGH, LOW = 0.9, 0.1  # beyond them a gate is near its bounds: saturated


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in eval mode; behind it every module in its own again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class GateMoments:
    """One gate's values: of each channel and, where images have classes, of each class, whatever the batches were.

    An image counts by its mean where it has several values of a channel: one a place of the map without a squeeze, one
    a region where the gate stands in a detector's head. ``minimum``, ``maximum``, ``high`` and ``low`` count every
    value. All tensors are float64 (counts int64) on the CPU; a gate that is constant has a variance of exactly 0.

    Attributes:
        images, values: how many were seen; as many where a gate gives one value an image.
        minimum, maximum: (C,).
        high, low: (C,), how many values are above ``HIGH`` and below ``LOW``, without their sign (tanh).
        count: (K,), images of each class; an image of several counts in each.

    Args:
        classes: K; 0: none are told apart.
    """

    def __init__(self, classes: int = 0):
        self.images = self.values = 0
        self.count = torch.zeros(classes, dtype=torch.int64)
        self.minimum = self.maximum = self.high = self.low = None
        # Sums of differences to the first image: exact where nothing varies, and without cancellation elsewhere.
        self._origin = self._sum = self._squares = self._class_sum = self._class_squares = None

    def add(self, gate: Tensor, classes: Tensor | None = None) -> None:
        """
        Args:
            gate: (N, C), (N, C, 1, 1) or (N, C, H, W); an empty one counts for nothing.
            classes: of the images: (N,) integers, where a negative one is none; or (N, K), true where an image
                belongs to a class.
        """
        if not gate.numel():
            return
        values = gate.detach().cpu().double().reshape(*gate.shape[:2], -1)
        if self._origin is None:
            self._begin(values)
        by_channel = values.movedim(1, 0).flatten(1)
        low, high = by_channel.aminmax(dim=1)
        self.minimum, self.maximum = self.minimum.minimum(low), self.maximum.maximum(high)
        self.high += (by_channel.abs() > HIGH).sum(1)
        self.low += (by_channel.abs() < LOW).sum(1)
        self.images, self.values = self.images + len(values), self.values + by_channel.shape[1]
        apart = values.mean(2) - self._origin
        self._sum += apart.sum(0)
        self._squares += apart.square().sum(0)
        if classes is not None and len(self.count):
            self._add_classes(apart, classes.cpu())

    def _begin(self, values: Tensor) -> None:
        channels = values.shape[1]
        self._origin = values[0].mean(1)
        self.minimum, self.maximum = self._origin.clone(), self._origin.clone()
        self.high, self.low = (torch.zeros(channels, dtype=torch.int64) for _ in range(2))
        self._sum, self._squares = (self._origin.new_zeros(channels) for _ in range(2))
        self._class_sum, self._class_squares = (self._origin.new_zeros(len(self.count), channels) for _ in range(2))

    def _add_classes(self, apart: Tensor, classes: Tensor) -> None:
        if classes.dim() == 1:
            images = (classes >= 0).nonzero()[:, 0]
            classes = classes[images]
        else:
            images, classes = classes.nonzero(as_tuple=True)
        self._class_sum.index_add_(0, classes, apart[images])
        self._class_squares.index_add_(0, classes, apart[images].square())
        self.count += torch.bincount(classes, minlength=len(self.count))

    @property
    def mean(self) -> Tensor:
        """(C,), over the images."""
        return self._origin + self._sum / self.images

    @property
    def variance(self) -> Tensor:
        """(C,), over the images, over n - 1; NaN of one image."""
        return _variance(self._sum, self._squares, torch.tensor(self.images))

    @property
    def class_mean(self) -> Tensor:
        """(K, C); NaN for a class without images."""
        return self._origin + self._class_sum / self.count[:, None]

    @property
    def class_variance(self) -> Tensor:
        """(K, C), within each class, over n - 1; NaN for a class of fewer than two images."""
        return _variance(self._class_sum, self._class_squares, self.count[:, None])

    @property
    def between(self) -> Tensor:
        """(C,), the variance between classes: of the means of those with two images or more, over classes - 1. NaN
        where there are fewer than two such classes."""
        means = self.class_mean[self.count > 1]
        return means.var(0) if len(means) > 1 else torch.full_like(self._origin, torch.nan)

    @property
    def within(self) -> Tensor:
        """(C,), the variance within classes: the mean of the own ones of the classes with two images or more. NaN
        where there is none."""
        return self.class_variance[self.count > 1].mean(0)

    def separation(self) -> float | None:
        """The variance between classes over the variance within, each summed over the channels. Where classes do not
        differ it is near 1 / images of a class. None where nothing varies within, or there are no two classes."""
        between, within = self.between.sum().item(), self.within.sum().item()
        return between / within if within > 0 and not math.isnan(between) else None

    @property
    def always_on(self) -> Tensor:
        """(C,), true for a channel of which every value was above ``HIGH``, without its sign."""
        return self.high == self.values

    @property
    def always_off(self) -> Tensor:
        """(C,), true for a channel of which every value was below ``LOW``, without its sign."""
        return self.low == self.values


def _variance(total: Tensor, squares: Tensor, count: Tensor) -> Tensor:
    variance = ((squares - total.square() / count) / (count - 1)).clamp(min=0)  # a NaN stays one
    return variance.masked_fill(count < 2, torch.nan)


def record(
    model: Callable[[object], object],
    sites: Sequence[SESite],
    batches: Iterable[tuple[object, Tensor | None]],
    classes: int = 0,
) -> dict[str, GateMoments]:
    """Runs a model over images and watches its gates. No gradients, no weight is changed.

    Args:
        model: in eval mode, with the sites' network in it; or a function that runs it.
        sites: with gates, such as those of ``sites_of(model)``. A stage in a detector's head sees regions: its
            batches are to be of one image.
        batches: (images as the model takes them: N, as ``len`` counts; their classes as ``GateMoments.add``).
        classes: K; 0: none are told apart.

    Returns:
        path of a site → its gate's moments.

    Raises:
        ValueError: a gate that sees regions, in a batch of several images.
    """
    moments = {site.path: GateMoments(classes) for site in sites}
    seen: dict[str, list[Tensor]] = {site.path: [] for site in sites}

    def keep(path: str) -> Callable[..., None]:
        return lambda module, inputs, gate: seen[path].append(gate)

    with ExitStack() as stack, torch.no_grad():
        for site in sites:
            stack.callback(site.gate.register_forward_hook(keep(site.path)).remove)
        for images, truth in batches:
            model(images)
            for path, gates in seen.items():
                if gates:
                    moments[path].add(_by_image(gates, len(images), path), truth)
                gates.clear()
    return moments


def _by_image(gates: Sequence[Tensor], images: int, path: str) -> Tensor:
    """What a gate gave for a batch, (images, C, values), of one image whatever the calls and regions."""
    if images == 1:
        return torch.cat([gate.movedim(1, 0).flatten(1) for gate in gates], dim=1)[None]
    if len(gates) != 1 or len(gates[0]) != images:
        raise ValueError(f"the gate at {path} sees regions: give batches of one image")
    return gates[0]


def absorbed_scale(site: SESite) -> Tensor | str:
    """|γ| of the normalisation that is the absorber of a gate, (C,) on the CPU, by the gate's channels; the mean of
    several that take up the same channel. Or, in words, why there is none: the gate has no absorber, or one that is no
    normalisation in every channel."""
    absorbers = site.absorbers()
    if isinstance(absorbers, str):
        return absorbers
    total = torch.zeros(site.channels(site.placement or "standard"), dtype=torch.float64)
    times = torch.zeros_like(total)
    for absorber in absorbers:
        if not isinstance(absorber.module, (*BATCH_NORMS, nn.GroupNorm)) or absorber.module.weight is None:
            return f"is taken up by {absorber.name}, which is no normalisation"
        part = absorber.gate or slice(None)
        total[part] += absorber.module.weight.detach().cpu().double().abs()[absorber.own or slice(None)]
        times[part] += 1
    return total / times
