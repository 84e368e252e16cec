"""Pairs a file's tensors with a model's, and lists what is left over on either side. Touches nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from se_backbones.weights.layouts import split_detector
from se_backbones.weights.report import WrongShape
from se_backbones.weights.statistics import biases_without_place, neutral_statistics
from se_backbones.weights.target import Target
from se_backbones.weights.weights_file import WeightsFile

COUNTER = "num_batches_tracked"
# Detectron2 kept these in older checkpoints; a model of today takes them from its config.
_FROM_CONFIG = ("pixel_mean", "pixel_std")


@dataclass
class Match:
    """The pairs to copy, and the rest.

    Attributes:
        pairs: the model's name -> (the file's name, the tensor in the model's form).
        our_names: a name as reported -> the same under our names, for patterns.
        problems: what forbids the load whatever the names.
    """

    pairs: dict[str, tuple[str, Tensor]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[WrongShape] = field(default_factory=list)
    derived: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    our_names: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    touches_backbone: bool = False


def match(weights: WeightsFile, target: Target) -> Match:
    """Finds for each of the file's tensors its place in the model.

    A backbone's or classifier's file goes to the model's network, wherever it lies. A detector's file goes to
    a detector name by name, its backbone to wherever that lies; into a plain network only its backbone fits
    (with a stage that the detector keeps in its heads), and the rest is unexpected.
    """
    result = Match()
    for key, name in weights.names.items():
        tensor = weights.tensor(key)
        place = _place(weights, target, name)
        result.our_names[key] = name
        if place not in target.tensors or place in result.pairs:
            _left_over(result, key, name, tensor, weights)
            continue
        mine = target.tensors[place]
        if tensor.shape != mine.shape:
            result.wrong_shape.append(WrongShape(place, key, tuple(tensor.shape), tuple(mine.shape)))
        elif mine.is_floating_point() and not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            result.wrong_shape.append(
                WrongShape(place, key, tuple(tensor.shape), tuple(mine.shape), f"{kind} numbers, not floating-point")
            )
        else:
            result.pairs[place] = (key, tensor)
            result.touches_backbone |= place.startswith(target.prefix)
    _fold_biases(weights, target, result)
    _fill_statistics(weights, target, result)
    wrong = {item.name for item in result.wrong_shape}
    for name in target.tensors:
        if name in result.pairs or name in result.derived or name in wrong:
            continue
        if name.endswith(COUNTER):
            result.derived[name] = "a BatchNorm's counter, kept"
        else:
            result.missing.append(name)
    return result


def _place(weights: WeightsFile, target: Target, name: str) -> str:
    if not weights.is_detector:
        return target.place_of(name)
    prefix, inner = split_detector(name, weights.family)
    return target.place_of(inner) if prefix and name not in target.tensors else name


def _left_over(result: Match, key: str, name: str, tensor: Tensor, weights: WeightsFile) -> None:
    if name.endswith(COUNTER):
        result.ignored[key] = "a BatchNorm's counter; the model's normalisation has none"
    elif name in _FROM_CONFIG:
        result.ignored[key] = "comes from the config"
    elif weights.in_network(name) in weights.family.bias_norms and tensor.dim() == 1:
        pass  # _fold_biases accounts for it
    else:
        result.unexpected.append(key)


def _fold_biases(weights: WeightsFile, target: Target, result: Match) -> None:
    """A convolution's bias that the network has no place for; ``mean - bias`` in the BatchNorm behind is the same."""
    without_place = biases_without_place(weights, lambda inner: target.place_of(inner) in target.tensors)
    for key, _, norm in without_place:
        bias = weights.state_dict[key]
        mean_name = target.place_of(weights.in_network(norm))
        if not bias.any():
            result.ignored[key] = "a bias of zeros"
        elif mean_name in result.pairs and bias.shape == target.tensors[mean_name].shape:
            mean_key, mean = result.pairs[mean_name]
            result.pairs[mean_name] = (f"{mean_key} - {key}", mean - bias)
            result.ignored[key] = f"folded into {weights.in_network(norm)}"
        else:
            result.unexpected.append(key)


def _fill_statistics(weights: WeightsFile, target: Target, result: Match) -> None:
    """Caffe2's old files fold a BatchNorm's statistics into weight and bias: mean 0, variance 1 remain."""
    if not weights.form.folded_statistics:
        return
    norms = {name.rpartition(".")[0] for name in target.tensors if name.endswith(".running_var")}
    live = []
    for norm in sorted(norms):
        mean, var = f"{norm}.running_mean", f"{norm}.running_var"
        if f"{norm}.weight" not in result.pairs or {mean, var} & result.pairs.keys():
            continue
        if target.has_live_statistics(var):
            live.append(norm)
            continue
        eps = getattr(target.owner(var), "eps", 0.0)
        why = "folded into weight and bias in the file"
        zero, one = neutral_statistics(target.tensors[mean], eps)
        result.pairs[mean], result.pairs[var] = (f"{why}: 0", zero), (f"{why}: 1", one)
    if live:
        result.problems.append(
            f"the file has no running statistics for {len(live)} normalisations: they are folded into "
            "weight and bias, which only a frozen BatchNorm can use. Build the model with norm='FrozenBN'"
        )
        for norm in live:
            for part in ("running_mean", "running_var"):
                result.derived[f"{norm}.{part}"] = "folded in the file"
