"""Finds the tensors in what a training script saved around them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
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
_DEEPEST = 6  # modules that a network is looked for below

IsNetwork = Callable[[Collection[str]], bool]


@dataclass
class Unwrapped:
    """The tensors, without wrappers.

    Attributes:
        state_dict: name -> tensor, names without ``module.``, ``model.``, ``_orig_mod.`` and the like.
        place: where in the file they were, ``state_dict`` or ``model.state_dict``; empty at the top.
        beside: the values beside them at the file's top (epoch, classes, preprocessing, …), dictionaries of
            tensors left out.
        left_out: names that hold nothing to load, with the reason.
        notes: what else lies in the file and was not taken.
    """

    state_dict: dict[str, Tensor]
    place: str = ""
    beside: dict = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def holds_tensors(value) -> bool:
    """Whether a dictionary has tensors in it, at any depth."""
    if not isinstance(value, dict):
        return False
    return any(isinstance(item, Tensor) or holds_tensors(item) for item in value.values())


def unwrap(content, where: str, part: str = "", is_network: IsNetwork = lambda names: False) -> Unwrapped:
    """The tensors in a file's content.

    Args:
        content: what load_safely gave.
        where: the file, for messages.
        part: what in the file is to be taken in place of the usual: the name of a dictionary (``state_dict_ema``), or
            what its tensors' names begin with (``teacher``).
        is_network: whether tensors of these names, without wrappers, are of a network: where names or dictionaries
            are unknown, the one is taken that holds a network.

    Raises:
        WeightsError: there are no tensors, no such part, or several networks of which none is usually meant.
    """
    if not isinstance(content, dict):
        raise WeightsError(f"{where}: holds a {type(content).__name__}, not a dictionary of tensors by name")
    beside = {
        key: value for key, value in content.items() if not holds_tensors(value) and not isinstance(value, Tensor)
    }
    value, place, rest = _at(content, part)
    value, inner = _descend(value, where) if rest else _descend(value, where, is_network)
    place += inner
    if rest:
        value, inner, rest = _at(value, rest)
        place += inner
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    left_out = {str(key): "not a tensor" for key in value if place and str(key) not in tensors}
    tensors = _without_prefixes(tensors, left_out, where)
    if rest:
        found = {key.removeprefix(f"{rest}."): item for key, item in tensors.items() if key.startswith(f"{rest}.")}
        if not found:
            raise WeightsError(f"{where}: has no part {part!r} with tensors; it has {_parts(content, is_network)}")
        tensors = _without_prefixes(found, left_out, where)
    if not tensors:
        raise WeightsError(
            f"{where}: there are no tensors by name in it; its top has {', '.join(map(str, content))[:200]}"
        )
    notes = [] if part or not place else list(_not_taken(content, place[0], is_network))
    if not is_network(tensors):
        tensors, note = _below_a_prefix(tensors, left_out, where, is_network)
        notes += [note] if note else []
    return Unwrapped(tensors, ".".join(place), beside, left_out, notes)


def _at(value: dict, part: str) -> tuple[dict, list[str], str]:
    """The dictionary of this name, or of as much of the name as there are dictionaries for; their keys; the rest."""
    place: list[str] = []
    part = part.rstrip(".")
    while part:
        keys = [key for key in value if isinstance(key, str) and f"{part}.".startswith(f"{key}.")]
        key = next((key for key in keys if holds_tensors(value[key])), None)
        if key is None:
            break
        value, part = value[key], part.removeprefix(key).removeprefix(".")
        place.append(key)
    return value, place, part


def _descend(value: dict, where: str, is_network: IsNetwork = lambda names: False) -> tuple[dict, list[str]]:
    """Through the dictionaries in which weights are usually kept; where none has such a name, into the one that holds
    a network."""
    place: list[str] = []
    while True:
        found = [key for key in CONTAINERS if holds_tensors(value.get(key))]
        if not found and not any(isinstance(item, Tensor) for item in value.values()):
            found = [key for key, item in value.items() if _holds_network(item, is_network)]
            if len(found) > 1:
                raise _several(where, [".".join((*place, str(key))) for key in found])
        if not found:
            return value, place
        place.append(str(found[0]))
        value = value[found[0]]


def _holds_network(value, is_network: IsNetwork) -> bool:
    if not isinstance(value, dict):
        return False
    names = [str(key) for key, item in value.items() if isinstance(item, Tensor)]
    if names and (is_network(names) or _prefixes(names, is_network)):
        return True
    return any(_holds_network(item, is_network) for item in value.values())


def _not_taken(content: dict, taken: str, is_network: IsNetwork) -> Iterator[str]:
    """Sentences on the networks in a file's other dictionaries."""
    for key, item in content.items():
        if key in _AVERAGED and taken not in _AVERAGED and holds_tensors(item):
            yield f"an averaged copy lies at {key!r} and was not taken; FILE#{key} loads it"
        elif key != taken and _holds_network(item, is_network):
            yield f"another network lies at {key!r} and was not taken; FILE#{key} loads it"


def _prefixes(names: Collection[str], is_network: IsNetwork) -> list[str]:
    """What the names of a network's tensors begin with: ``encoder.``, ``module.student.``; the shortest that do."""
    below: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        for end in range(1, min(len(parts) - 1, _DEEPEST) + 1):
            prefix = ".".join(parts[:end]) + "."
            below.setdefault(prefix, []).append(name.removeprefix(prefix))
    found: list[str] = []
    for prefix in sorted(below, key=lambda prefix: prefix.count(".")):
        if not prefix.startswith(tuple(found)) and is_network(below[prefix]):
            found.append(prefix)
    return found


def _below_a_prefix(tensors, left_out, where: str, is_network: IsNetwork) -> tuple[dict[str, Tensor], str]:
    """The tensors of the one network whose names begin alike, and a note; as they are where there is none."""
    found = _prefixes(tensors, is_network)
    if len(found) > 1:
        raise _several(where, [prefix.removesuffix(".") for prefix in found])
    if not found:
        return tensors, ""
    prefix = found[0]
    beside = [key for key in tensors if not key.startswith(prefix)]
    left_out.update(dict.fromkeys(beside, f"beside the network, which lies under {prefix!r}"))
    note = f"the network lies under {prefix!r} in the file"
    if beside:
        note += (
            f"; {len(beside)} tensors beside it were left: {', '.join(beside[:5])}{', …' if len(beside) > 5 else ''}"
        )
    inner = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return _without_prefixes(inner, left_out, where), note


def _several(where: str, parts: list[str]) -> WeightsError:
    names = " or ".join(f"FILE#{part}" for part in parts)
    return WeightsError(f"{where}: several networks lie in it: {', '.join(parts)}. Name one: {names}")


def _parts(content: dict, is_network: IsNetwork) -> str:
    names = [str(key) for key, item in content.items() if holds_tensors(item)]
    value, _ = _descend(content, "")
    prefixes = _prefixes([str(key) for key, item in value.items() if isinstance(item, Tensor)], is_network)
    return ", ".join(dict.fromkeys([*names, *(prefix.removesuffix(".") for prefix in prefixes)])) or "none"


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
