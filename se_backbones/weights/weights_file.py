"""A weights file, read and understood: its tensors, its layout, and everything it says about itself."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.layout import Facts, FileSays, Layout, NetworkShape
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import Family, find_spec, list_backbones, shapes_of
from se_backbones.weights.formats.own_format import CHECKPOINT_FORMAT, WEIGHTS_FORMAT, is_ours
from se_backbones.weights.formats.safe_load import check_name_hash, file_sha256, open_safely
from se_backbones.weights.formats.wrapped import holds_tensors, unwrap
from se_backbones.weights.identity import names_itself, settings_of, stated_as
from se_backbones.weights.layouts import OURS_DETECTION, names_to_ours, recognise, split_detector, tensor_to_ours
from se_backbones.weights.numbers import check_numbers
from se_backbones.weights.shapes import describe
from se_backbones.weights.sources.named import SourceFile, locate

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
        architecture: the name in ``list_backbones()``, where a file of ours or the caller states it.
        presumed: it is only what such names and shapes usually are.
        se: the SE settings as a dictionary, where a file of ours states them.
        facts: stride, pooling and preprocessing, and how sure they are.
        classes: the class names, where a file of ours or the release states them.
        left_out: names that hold nothing to load, with the reason.
        notes: what a person should know (an averaged copy that was not taken, …).
        metadata: the other values beside the tensors: epoch, versions, ….
        names_itself: where and how the file may be called after its network, see ``identity``; ``released_as``: what
            the release calls the network of a named source.
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
    presumed: bool = False
    names_itself: tuple[tuple[str, str], ...] = ()
    released_as: str = ""

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


def read_state_dict(source: str | os.PathLike | Mapping[str, Tensor], network: str | None = None) -> WeightsFile:
    """Reads weights and tells what they are. Nothing in a file is run, and nothing is loaded into a model.

    What a file says of itself is believed in this project's own formats alone; any other is judged by its layout.

    Args:
        source: a path, a named source (see ``sources.locate``), or a dictionary of tensors in memory.
        network: the name in ``list_backbones()`` of the network that the weights are of, from one who knows; it
            decides where names and shapes fit several.

    Returns:
        tensors, layout, and what is known about the network.

    Raises:
        WeightsError: the source cannot be had; the file is damaged or unsafe; its names belong to no known
            layout, or it holds several networks; a tensor holds a number that is not finite, or none; the file says
            that it is of another network than ``network``.
    """
    if isinstance(source, Mapping):
        where = "a dictionary in memory"
        return stated_as(_understand(dict(source), SourceFile(Path(where)), "", source=where), network)
    source_file = locate(source)
    file = open_safely(source_file.path)
    sha256 = file_sha256(source_file.path)
    doubt = check_name_hash(source_file.path, sha256)
    weights = _understand(file.content, source_file, sha256, source=os.fspath(source), header=file.metadata)
    weights.path = source_file.path
    weights.notes += [doubt] if doubt else []
    return stated_as(weights, network)


def _understand(content, source_file: SourceFile, sha256: str, source: str, header: Mapping[str, str] | None = None):
    where = str(source_file.path)
    inner = unwrap(content, where, source_file.part or _averaged_part(content), _is_network)
    beside = {**inner.beside, **(header or {})}
    nested = beside.pop("metadata", None) if beside.get("format") == WEIGHTS_FORMAT else None
    beside |= nested if isinstance(nested, Mapping) else {}  # a converted file in torch's or pickle's form
    ours = is_ours(beside)
    if ours:
        beside = _decoded(beside, where)
    tensors, left_out = _weights_alone(inner.state_dict, inner.left_out)
    check_numbers(tensors, where)
    try:
        family, layout = recognise(tensors)
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from None
    for key in [key for key in tensors if not key.startswith(layout.roots)]:
        left_out[key] = "beside the network"
        del tensors[key]
    weights = WeightsFile(
        source,
        None,
        sha256,
        family,
        layout,
        tensors,
        names_to_ours(tensors, layout),
        left_out=left_out,
        notes=inner.notes,
        metadata=beside,
        names_itself=names_itself(source_file, beside),
        released_as=source_file.network,
    )
    if ours and inner.place == AVERAGED and not source_file.part:
        weights.notes.append(_averaged_note(content))
    elif inner.place:
        weights.notes.append(f"the tensors lay at {inner.place!r} in the file")
    weights.classes = source_file.classes
    if ours:
        weights.architecture = next(
            (value for key in ("architecture", "backbone") if (value := beside.get(key)) in list_backbones()), None
        )
        weights.presumed = bool(beside.get("presumed"))
        weights.se = beside.get("se") if isinstance(beside.get("se"), dict) else None
        if isinstance(beside.get("classes"), list | tuple):
            weights.classes = [str(name) for name in beside["classes"]]
    elif words := [key for key in ("preprocessing", "classes", "se") if key in beside]:
        weights.notes.append(f"what the file says of its {', '.join(words)} is not taken: it is not of our format")
    weights.facts = _facts(weights, source_file)
    return weights


def _is_network(names) -> bool:
    try:
        recognise(list(names))
    except WeightsError:
        return False
    return True


def _averaged_note(content) -> str:
    others = "; FILE#model has the others" if holds_tensors(content.get("model")) else ""
    return f"the averaged weights were taken, as in the run's own evaluation{others}"


def _averaged_part(content) -> str:
    """A checkpoint of ours stands for its averaged weights, if it has any: they are what the run evaluates."""
    ours = isinstance(content, dict) and content.get("format") == CHECKPOINT_FORMAT
    return AVERAGED if ours and holds_tensors(content.get(AVERAGED)) else ""


def _decoded(header: Mapping, where: str) -> dict:
    """Our own file's texts, with those that hold JSON (preprocessing, classes, se, widths, unmarked) decoded."""
    values = dict(header)
    for key in ("preprocessing", "classes", "se", "widths", "unmarked"):
        if isinstance(values.get(key), str):
            try:
                values[key] = json.loads(values[key])
            except ValueError:
                raise WeightsError(f"{where}: damaged, its {key} is not JSON") from None
    return values


def _facts(weights: WeightsFile, source_file: SourceFile) -> Facts:
    beside, ours = weights.metadata, is_ours(weights.metadata)
    author = str(beside.get("__author__") or source_file.author)
    facts = weights.form.facts(FileSays(shapes_of(weights.backbone()), author, tuple(weights.state_dict)))
    if weights.architecture and find_spec(weights.architecture).family == weights.family.name:
        facts = replace(facts, hyper=settings_of(weights.architecture))
    elif weights.layout == OURS_DETECTION:
        facts = Facts()
    stated = beside.get("preprocessing") if ours else None
    if isinstance(stated, Mapping):
        try:
            return replace(facts, preprocessing=Preprocessing.of(stated), basis="stated")
        except WeightsError as error:
            raise WeightsError(f"{source_file.path}: damaged, {error}") from None
    if source_file.preprocessing:
        return replace(facts, preprocessing=source_file.preprocessing, basis="stated")
    if ours:
        return replace(facts, preprocessing=None, basis="")  # our own file, and it says nothing
    mean, std = weights.state_dict.get("pixel_mean"), weights.state_dict.get("pixel_std")
    if weights.is_detector and mean is not None and std is not None and mean.numel() == std.numel() == 3:
        # Detectron2 wrote these before they became non-persistent; red has the largest mean in natural
        # images.
        mean, std = mean.flatten().tolist(), std.flatten().tolist()
        order = "RGB" if mean[0] > mean[2] else "BGR"
        return replace(facts, preprocessing=Preprocessing(order, 255, mean, std), basis="stated")
    return facts


def _weights_alone(tensors: dict[str, Tensor], left_out: dict[str, str]):
    """Takes out what Detectron2's older files keep beside weights: the anchors, which a config gives. A parameter
    becomes the tensor that it is."""
    anchors = [key for key in tensors if re.search(r"(^|\.)anchor_generator\.cell_anchors\.", key)]
    left_out = {**left_out, **dict.fromkeys(anchors, "anchors come from the config")}
    return {name: tensor.detach() for name, tensor in tensors.items() if name not in anchors}, left_out
