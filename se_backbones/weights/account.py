"""Whether weights are a network's and nothing else: every name and shape is accounted for, and nothing is built."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

from se_backbones.backbone import SESite
from se_backbones.errors import WeightsError
from se_backbones.registry import Family, Spec, shapes_of, skeleton
from se_backbones.weights.layouts import GATE_TENSOR
from se_backbones.weights.report import fold_names
from se_backbones.weights.weights_file import WeightsFile

_SHOWN = 8
_STATISTICS = ("running_mean", "running_var")
_COUNTER = "num_batches_tracked"

Shape = tuple[int, ...]


def check_account(weights: WeightsFile, row: Spec) -> None:
    """Compares a file's tensors with those of a row's network, with a gate wherever the file has one and a classifier
    of as many classes as the file's; a detector's with its network alone.

    Raises:
        WeightsError: names or shapes that the network does not have, or that it has and the file has not; all are
            named.
    """
    tensors = weights.backbone()
    found = shapes_of(tensors)
    expected = _expected(row, found)
    problems = {
        "no part of it": list(_strange(found, expected, weights.family)),
        "of another shape": [
            f"{name}: {list(found[name])} in the file, {list(shape)} in the network"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
        "no floating-point numbers": [
            f"{name} ({str(tensor.dtype).removeprefix('torch.')})"
            for name, tensor in tensors.items()
            if name in expected and not tensor.is_floating_point() and not name.endswith(_COUNTER)
        ],
        "missing": list(_missing(found, expected, weights)),
    }
    if any(problems.values()):
        lines = [f"{weights.source}: is no {row.name} alone"]
        for title, names in problems.items():
            folded = fold_names(names)
            more = f", and {len(folded) - _SHOWN} more" if len(folded) > _SHOWN else ""
            lines += [f"- {title} ({len(names)}): {', '.join(folded[:_SHOWN])}{more}"] if names else []
        if names := problems["no part of it"]:
            if inside := inside_units(tensors, names, row):
                lines.append(f"- {inside}")
            lines.append("- what is not to be written is left out by name (leave_out, --leave-out)")
        raise WeightsError("\n".join(lines))


def _expected(row: Spec, found: Mapping[str, Shape]) -> dict[str, Shape]:
    network = skeleton(row)
    there = {network.stage_of(name) for name in found}  # not all stages need be: of a C4 detector without heads, say
    shapes = {name: shape for name, shape in shapes_of(network.state_dict()).items() if network.stage_of(name) in there}
    head = tuple(f"{path}." for path in network.head_paths)
    if any(name.startswith(head) for name in found):
        shapes |= {n: tuple(t.shape) for n, t in network.state_dict().items() if n.startswith(head)}
        last = (f"{network.head_path}.weight", f"{network.head_path}.bias")
        classes = found.get(last[0], shapes[last[0]])[:1]
        shapes |= {name: (*classes, *shapes[name][1:]) for name in last if name in shapes}
    else:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(head)}
    for site in network.se_sites():
        shapes |= _gate(site, found)
    return shapes


def _gate(site: SESite, found: Mapping[str, Shape]) -> dict[str, Shape]:
    """A gate's tensors, of the width that the file has it in."""
    place = f"{site.path}.se." if site.path else "se."
    first = found.get(f"{place}fc1.weight")
    if first is None or len(first) != 4:
        return {}
    hidden = first[0]
    fitting = {site.channels(placement) for placement in site.owner.placements}
    channels = first[1] if first[1] in fitting else site.channels("standard")
    shapes = {f"{place}fc1.weight": (hidden, channels, 1, 1), f"{place}fc2.weight": (channels, hidden, 1, 1)}
    if any(f"{place}fc{number}.bias" in found for number in (1, 2)):
        shapes |= {f"{place}fc1.bias": (hidden,), f"{place}fc2.bias": (channels,)}
    return shapes


def _strange(found: Mapping[str, Shape], expected: Mapping[str, Shape], family: Family) -> Iterator[str]:
    for name, shape in found.items():
        if name in expected or (name in family.bias_norms and len(shape) == 1):
            continue
        if not name.endswith(_COUNTER) or f"{name.removesuffix(_COUNTER)}weight" not in found:
            yield name


def _missing(found: Mapping[str, Shape], expected: Mapping[str, Shape], weights: WeightsFile) -> Iterator[str]:
    # GroupNorm has no statistics, nor have folded files.
    without = weights.form.folded_statistics or not any(name.endswith(_STATISTICS) for name in found)
    for name in expected:
        if name in found or name.endswith(_COUNTER) or (without and name.endswith(_STATISTICS)):
            continue
        yield name


def inside_units(tensors: Mapping[str, Tensor], names: Collection[str], row: Spec) -> str:
    """A sentence on unknown tensors inside a network's units, and whether they may be its excitation layers: pairs of
    linear layers or 1×1 convolutions, (h, c) and (c, h). Empty where there are none.

    Args:
        tensors: a file's, under our names; ``names``: those of them that are unknown.
    """
    network = skeleton(row)
    inside = [name for name in names if name in tensors and network.stage_of(name) and not GATE_TENSOR.match(name)]
    linear = [name for name in inside if _is_linear(tensors[name])]
    pairs = {tuple(tensors[name].shape[:2]) for name in linear}
    if gates := [name for name in linear if tuple(tensors[name].shape[:2])[::-1] in pairs]:
        return (
            f"{', '.join(fold_names(gates)[:4])} have the shapes of excitation layers, under names that are not known. "
            "They can be read as <unit>.se.fc1 and <unit>.se.fc2: rename them in the file"
        )
    if inside:
        return f"{', '.join(fold_names(inside)[:4])} lie inside the units: the file's network is another one"
    return ""


def _is_linear(tensor: Tensor) -> bool:
    return tensor.dim() == 2 or (tensor.dim() == 4 and tensor.shape[2:] == (1, 1))
