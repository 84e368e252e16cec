"""In which layout of which family a file's tensors are named, and renaming from one layout to another.

The layouts belong to the families (``se_backbones/families``). Two words mean the same in all of them: ``ours``, a
network by our names, and ``ours-detection``, a whole detector of ours, in which a network lies at ``backbone.net`` or,
below a feature pyramid, at ``backbone.bottom_up.net``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.layout import Facts, Layout, unchanged
from se_backbones.registry import Family, families

OURS = "ours"
OURS_DETECTION = "ours-detection"
_IN_DETECTOR = re.compile(r"^(backbone\.(?:bottom_up\.)?net\.)(.+)$")
GATE_TENSOR = re.compile(r"^(?:(.+)\.)?se\.fc[12]\.(weight|bias)$")


def recognise(names: Collection[str]) -> tuple[Family, Layout]:
    """The family and layout of a file, told from its names without wrappers (see wrapped.py).

    Raises:
        WeightsError: no known layout; the message shows the first names.
    """
    inner = [found[2] for name in names if (found := _IN_DETECTOR.match(name))]
    for family in families():
        for layout in family.layouts:
            if inner and layout.to_ours is unchanged and layout.recognises(inner):
                return family, _OF_DETECTORS
            if not inner and layout.recognises(names):
                return family, layout
    known = ", ".join(dict.fromkeys([OURS_DETECTION, *(layout.name for f in families() for layout in f.layouts)]))
    raise WeightsError(
        f"these are not the names of a network in any known layout ({known}). "
        f"The first of {len(names)} names: {', '.join(list(names)[:5]) or 'none'}"
    )


_OF_DETECTORS = Layout(OURS_DETECTION, "", detector=True, facts=lambda file: Facts())


def detect_layout(names: Collection[str]) -> str:
    """The name of a state_dict's layout. Raises as ``recognise``."""
    return recognise(list(names))[1].name


def writable_layouts() -> tuple[str, ...]:
    """The layouts in which files can be written."""
    names = [layout.name for family in families() for layout in family.layouts if layout.from_ours]
    return (OURS, *dict.fromkeys(name for name in names if not name.endswith("-model")))


def names_to_ours(names: Collection[str], layout: Layout) -> dict[str, str]:
    """Each name of the file -> the name of the same tensor in our network. Names not of the layout stay.

    A detector's backbone keeps its place: ``backbone.bottom_up.net.…``.

    Raises:
        WeightsError: two names of the file mean one tensor.
    """
    renamed = layout.to_ours(list(names))
    seen: dict[str, str] = {}
    for key, name in renamed.items():
        if name in seen:
            raise WeightsError(f"two names of the file mean the same tensor {name}: {seen[name]} and {key}")
        seen[name] = key
    return renamed


def tensor_to_ours(name: str, tensor: Tensor, layout: Layout) -> Tensor:
    """A tensor in the form that our network has it: an excitation layer kept as a linear one, (out, in), becomes the
    1×1 convolution (out, in, 1, 1); the rest is the layout's own."""
    tensor = layout.tensor_to_ours(name, tensor)
    if tensor.dim() == 2 and GATE_TENSOR.match(name) and name.endswith("weight"):
        return tensor[:, :, None, None]
    return tensor


def target_layout(family: Family, name: str, detector: bool) -> Layout:
    """The layout to write a network of a family in, by name.

    Raises:
        WeightsError: the family cannot be written so.
    """
    if name not in writable_layouts():
        raise WeightsError(f"weights can be written as {', '.join(writable_layouts())}; {name!r} is none of them")
    if name == OURS:
        return Layout(OURS, "", from_ours=unchanged)
    layout = family.layout(f"{name}-model" if detector else name)
    if layout is None or layout.from_ours is None:
        if detector:
            raise WeightsError(
                f"{name} has no detectors of this kind; a detector is written to ours" + _or_model(family)
            )
        able = ", ".join((OURS, *(layout.name for layout in family.layouts if layout.from_ours)))
        raise WeightsError(f"a network of the family {family.name} can be written as {able}; {name!r} is none of them")
    return layout


def _or_model(family: Family) -> str:
    names = [layout.name.removesuffix("-model") for layout in family.layouts if layout.name.endswith("-model")]
    return "".join(f" or {name}" for name in names)


def convert_state_dict(state_dict: Mapping[str, Tensor], from_layout: str, to_layout: str) -> dict[str, Tensor]:
    """Renames a network's tensors from one layout to another; the numbers stay the same bytes.

    Args:
        state_dict: names without wrappers.
        from_layout: any layout of the network's family, ``ours`` or ``ours-detection``.
        to_layout: one of ``writable_layouts()``.

    Returns:
        a new dictionary over the same tensors.

    Raises:
        WeightsError: the target has no form for this network, the names are of no known layout, or two names fall
            together.
    """
    family, recognised = recognise(state_dict)
    layout = family.layout(from_layout) or (Layout(OURS, "") if from_layout == OURS else None)
    if from_layout == OURS_DETECTION:
        layout = recognised if recognised.detector else _OF_DETECTORS
    if layout is None:
        known = ", ".join((OURS, OURS_DETECTION, *(layout.name for layout in family.layouts)))
        raise WeightsError(f"the layout {from_layout!r} is none of {known}")
    names = names_to_ours(state_dict, layout)
    ours = {name: tensor_to_ours(name, state_dict[key], layout) for key, name in names.items()}
    return written_as(target_layout(family, to_layout, layout.detector), ours)


def written_as(layout: Layout, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors, by our names, in a layout."""
    ours = {**layout.added(ours), **ours}
    names = layout.from_ours(list(ours))
    return {names[name]: layout.tensor_from_ours(name, tensor) for name, tensor in ours.items()}


def split_detector(name: str, family: Family) -> tuple[str, str]:
    """A detector's tensor name (ours): where the network lies and the name in it, or ``("", name)``. A stage that the
    detector keeps in its heads lies there."""
    for place, path in family.detector_parts.items():
        if name.startswith(place):
            return place, path + name.removeprefix(place)
    found = _IN_DETECTOR.match(name)
    return (found[1], found[2]) if found else ("", name)
