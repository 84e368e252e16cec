"""A weights file, read and understood: its tensors, its layout, and everything it says about itself."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.layout import Facts, FileSays, Layout, NetworkShape
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import Family, find_spec, list_backbones, shapes_of
from se_backbones.weights.formats.safe_load import check_name_hash, file_sha256, open_safely
from se_backbones.weights.formats.wrapped import holds_tensors, unwrap
from se_backbones.weights.layouts import OURS_DETECTION, names_to_ours, recognise, split_detector, tensor_to_ours
from se_backbones.weights.shapes import describe
from se_backbones.weights.sources.named import SourceFile, locate

WEIGHTS_FORMAT = "se-backbones-weights/1"
CHECKPOINT_FORMAT = "se-backbones-checkpoint/1"
AVERAGED = "ema"  # where a checkpoint of ours has its averaged weights


@dataclass
class WeightsFile:
    """Weights as a source gave them.

    Attributes:
        source: as it was named; ``path``: the file, None for a dictionary in memory.
        sha256: of the file; empty for a dictionary.
        family: whose network it is; ``form``: the layout, of that family; our own files have the layout that their
            names have.
        state_dict: tensors on the CPU by the layout's names, without wrappers.
        names: each of those names -> the name in our network (in our detector, for a whole detector).
        architecture: the name in ``list_backbones()`` where the file states it.
        se: the SE settings as a dictionary where the file states them.
        facts: stride, pooling and preprocessing, and how sure they are.
        classes: the class names where the file has them.
        left_out: names that hold nothing to load, with the reason.
        notes: what a person should know (an averaged copy that was not taken, …).
        metadata: the other values beside the tensors: epoch, versions, ….
    """

    source: str
    path: Path | None
    sha256: str
    family: Family
    form: Layout
    state_dict: dict[str, Tensor]
    names: dict[str, str]
    architecture: str | None = None
    se: dict | None = None
    facts: Facts = field(default_factory=Facts)
    classes: list[str] | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    metadata: dict = field(default_factory=dict)

    @property
    def layout(self) -> str:
        """The layout's name."""
        return self.form.name

    @property
    def is_detector(self) -> bool:
        return self.form.detector

    def tensor(self, key: str) -> Tensor:
        """A tensor, by the file's name, in the form that our network has it."""
        return tensor_to_ours(self.names[key], self.state_dict[key], self.form)

    @property
    def preprocessing(self) -> Preprocessing | None:
        return self.facts.preprocessing

    def in_network(self, name: str) -> str:
        """One of our names, without the place that the network has in a detector."""
        return split_detector(name, self.family)[1] if self.is_detector else name

    def ours(self) -> dict[str, Tensor]:
        """The tensors under our names."""
        return {name: self.tensor(key) for key, name in self.names.items()}

    def backbone(self) -> dict[str, Tensor]:
        """The backbone's (or classifier's) tensors under our names, without the place in a detector."""
        if not self.is_detector:
            return self.ours()
        found = {}
        for name, tensor in self.ours().items():
            place, inner = split_detector(name, self.family)
            if place:
                found[inner] = tensor
        return found

    @property
    def shape(self) -> NetworkShape | None:
        return describe(self.backbone(), self.family)


def read_state_dict(source: str | os.PathLike | Mapping[str, Tensor]) -> WeightsFile:
    """Reads weights and tells what they are. Nothing in a file is run, and nothing is loaded into a model.

    Args:
        source: a path, a named source (see ``sources.locate``), or a dictionary of tensors in memory.

    Returns:
        tensors, layout, and what the file says about itself.

    Raises:
        WeightsError: the source cannot be had; the file is damaged or unsafe; its names belong to no known
            layout; a tensor holds a number that is not finite.
    """
    if isinstance(source, Mapping):
        return _understand(
            dict(source), SourceFile(Path("a dictionary in memory")), "", source="a dictionary in memory"
        )
    source_file = locate(source)
    file = open_safely(source_file.path)
    sha256 = file_sha256(source_file.path)
    doubt = check_name_hash(source_file.path, sha256)
    weights = _understand(file.content, source_file, sha256, source=os.fspath(source), header=file.metadata)
    weights.path = source_file.path
    weights.notes += [doubt] if doubt else []
    return weights


def _understand(content, source_file: SourceFile, sha256: str, source: str, header: Mapping[str, str] | None = None):
    where = str(source_file.path)
    inner = unwrap(content, where, source_file.part or _averaged_part(content))
    beside = {**inner.beside, **_decoded(header or {}, where)}
    nested = beside.pop("metadata", None)
    if beside.get("format") == WEIGHTS_FORMAT and isinstance(nested, Mapping):
        beside = {**beside, **_decoded(nested, where)}  # a converted file in torch's or pickle's form
    tensors, left_out = _without_counters(inner.state_dict, inner.left_out)
    _check_finite(tensors, where)
    family, layout = recognise(tensors)
    weights = WeightsFile(
        source,
        None,
        sha256,
        family,
        layout,
        tensors,
        names_to_ours(tensors, layout),
        left_out=left_out,
        metadata=beside,
    )
    if inner.place == AVERAGED and not source_file.part:
        weights.notes.append(
            "the averaged weights were taken, as in the run's own evaluation; FILE#model has the others"
        )
    elif inner.place:
        weights.notes.append(f"the tensors lay at {inner.place!r} in the file")
    if inner.averaged:
        weights.notes.append(
            f"an averaged copy lies at {inner.averaged!r} and was not taken; FILE#{inner.averaged} loads it"
        )
    weights.architecture = _text(beside.get("architecture") or beside.get("backbone"))
    if weights.architecture not in list_backbones():
        weights.architecture = None
    weights.se = beside.get("se") if isinstance(beside.get("se"), dict) else None
    classes = beside.get("classes")
    weights.classes = [str(name) for name in classes] if isinstance(classes, list | tuple) else source_file.classes
    weights.facts = _facts(weights, source_file)
    return weights


def _averaged_part(content) -> str:
    """A checkpoint of ours stands for its averaged weights, if it has any: they are what the run evaluates."""
    ours = isinstance(content, dict) and content.get("format") == CHECKPOINT_FORMAT
    return AVERAGED if ours and holds_tensors(content.get(AVERAGED)) else ""


def _text(value) -> str | None:
    return value if isinstance(value, str) and value else None


def _decoded(header: Mapping, where: str) -> dict:
    """A safetensors header's texts, with those that hold JSON (preprocessing, classes, se) decoded."""
    values = dict(header)
    for key in ("preprocessing", "classes", "se"):
        if isinstance(values.get(key), str):
            try:
                values[key] = json.loads(values[key])
            except ValueError:
                raise WeightsError(f"{where}: damaged, its {key} is not JSON") from None
    return values


def _facts(weights: WeightsFile, source_file: SourceFile) -> Facts:
    beside = weights.metadata
    author = str(beside.get("__author__") or source_file.author)
    facts = weights.form.facts(FileSays(shapes_of(weights.backbone()), author, tuple(weights.state_dict)))
    if weights.architecture:
        row = find_spec(weights.architecture)
        if row.family == weights.family.name:
            facts = replace(facts, hyper={name: getattr(row.hyper, name) for name in weights.family.unmarked})
    elif weights.layout == OURS_DETECTION:
        facts = Facts()
    stated = beside.get("preprocessing")
    if isinstance(stated, Mapping):
        try:
            return replace(facts, preprocessing=Preprocessing.of(stated), basis="stated")
        except WeightsError as error:
            raise WeightsError(f"{source_file.path}: damaged, {error}") from None
    if source_file.preprocessing:
        return replace(facts, preprocessing=source_file.preprocessing, basis="stated")
    if beside.get("format") in (WEIGHTS_FORMAT, CHECKPOINT_FORMAT):
        return replace(facts, preprocessing=None, basis="")  # our own file, and it says nothing
    mean, std = weights.state_dict.get("pixel_mean"), weights.state_dict.get("pixel_std")
    if weights.is_detector and mean is not None and std is not None and mean.numel() == std.numel() == 3:
        # Detectron2 wrote these before they became non-persistent; red has the largest mean in natural
        # images.
        mean, std = mean.flatten().tolist(), std.flatten().tolist()
        order = "RGB" if mean[0] > mean[2] else "BGR"
        return replace(facts, preprocessing=Preprocessing(order, 255, mean, std), basis="stated")
    return facts


def _without_counters(tensors: dict[str, Tensor], left_out: dict[str, str]):
    """Takes out what Detectron2's older files keep beside weights: the anchors, which a config gives."""
    left_out = dict(left_out)
    for key in [key for key in tensors if re.search(r"(^|\.)anchor_generator\.cell_anchors\.", key)]:
        left_out[key] = "anchors come from the config"
        tensors = {name: tensor for name, tensor in tensors.items() if name != key}
    return tensors, left_out


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    bad = []
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            # The extremes are finite only if all are: no copy of the tensor is made.
            low, high = torch.aminmax(tensor.float() if tensor.element_size() < 4 else tensor)
            if not (math.isfinite(low) and math.isfinite(high)):
                bad.append(name)
            elif name.endswith(("running_var", "_riv", "bn_running_var")) and low < 0:
                bad.append(name)
    if bad:
        raise WeightsError(
            f"{where}: {len(bad)} tensors hold numbers that are not finite, or a negative variance: "
            f"{', '.join(bad[:5])}. The file is damaged, or its training diverged"
        )
