"""Finds the tensors in what a training script saved around them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor

from se_backbones.errors import WeightsError

# Where scripts keep the weights, in the order in which they are looked for; the averaged copies come last.
CONTAINERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "network",
    "net",
    "module",
    "blobs",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "ema",
)
_AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
_PREFIXES = ("module.", "model.", "state_dict.", "model_ema.", "ema.")


@dataclass
class Unwrapped:
    """The tensors, without wrappers.

    Attributes:
        state_dict: name -> tensor, names without ``module.``, ``model.``, ``_orig_mod.`` and the like.
        place: where in the file they were, ``state_dict`` or ``model.state_dict``; empty at the top.
        beside: the values beside them at the file's top (epoch, classes, preprocessing, …), dictionaries of
            tensors left out.
        left_out: names that hold nothing to load, with the reason.
        averaged: where an averaged (EMA) copy of the weights lies in the file, if another one was taken.
    """

    state_dict: dict[str, Tensor]
    place: str = ""
    beside: dict = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    averaged: str = ""


def holds_tensors(value) -> bool:
    """Whether a dictionary has tensors in it, at any depth."""
    if not isinstance(value, dict):
        return False
    return any(isinstance(item, Tensor) or holds_tensors(item) for item in value.values())


def unwrap(content, where: str, part: str = "") -> Unwrapped:
    """The tensors in a file's content.

    Args:
        content: what load_safely gave.
        where: the file, for messages.
        part: a name inside the file (``state_dict_ema``) to be taken in place of the usual one.

    Raises:
        WeightsError: there are no tensors, or no such part.
    """
    if not isinstance(content, dict):
        raise WeightsError(f"{where}: holds a {type(content).__name__}, not a dictionary of tensors by name")
    beside = {
        key: value for key, value in content.items() if not holds_tensors(value) and not isinstance(value, Tensor)
    }
    place: list[str] = []
    averaged = ""
    value = content
    if part:
        if not holds_tensors(content.get(part)):
            parts = [str(key) for key, item in content.items() if holds_tensors(item)]
            raise WeightsError(f"{where}: has no part {part!r} with tensors; it has {', '.join(parts) or 'none'}")
        value, place = content[part], [part]
    while True:
        found = [key for key in CONTAINERS if holds_tensors(value.get(key))]
        if not found:
            break
        copies = [key for key in found if key in _AVERAGED]
        if copies and found[0] not in _AVERAGED and not place:
            averaged = copies[0]
        place.append(found[0])
        value = value[found[0]]
    tensors, left_out = {}, {}
    for key, item in value.items():
        if isinstance(item, Tensor):
            tensors[str(key)] = item
        elif place:
            left_out[str(key)] = "not a tensor"
    if not tensors:
        raise WeightsError(
            f"{where}: there are no tensors by name in it; its top has {', '.join(map(str, content))[:200]}"
        )
    return Unwrapped(_without_prefixes(tensors, left_out, where), ".".join(place), beside, left_out, averaged)


def _without_prefixes(tensors: dict[str, Tensor], left_out: dict[str, str], where: str) -> dict[str, Tensor]:
    tensors = dict(tensors)
    for key in [key for key in tensors if key.split(".")[-1] == "n_averaged"]:
        del tensors[key]
        left_out[key] = "the counter of an averaged model"
    for key in [key for key in tensors if key.endswith("_momentum")]:
        del tensors[key]
        left_out[key] = "an optimizer's momentum"
    while True:
        shorter = {re.sub(r"(^|\.)_orig_mod\.", r"\1", key): tensor for key, tensor in tensors.items()}
        for prefix in _PREFIXES:
            if shorter and all(key.startswith(prefix) for key in shorter):
                shorter = {key.removeprefix(prefix): tensor for key, tensor in shorter.items()}
        if len(shorter) != len(tensors):
            raise WeightsError(f"{where}: two names in it are the same without their wrappers")
        if shorter.keys() == tensors.keys():
            return tensors
        tensors = shorter
