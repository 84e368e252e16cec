"""SE into trained weights: while they are loaded, or from file to file. ``insert.py`` says how and why it is exact."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from se_backbones.backbone import Backbone, find_network, sites_of
from se_backbones.errors import WeightsError
from se_backbones.files import atomic_path
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import build, find_spec, skeleton
from se_backbones.se import SEConfig
from se_backbones.surgery.insert import check_absorbers, insert_se, make_neutral, neutral_config
from se_backbones.text import writable
from se_backbones.weights.convert import convert_file
from se_backbones.weights.formats.own_format import WEIGHTS_FORMAT
from se_backbones.weights.formats.safetensors_file import tensors_sha256, write_safetensors
from se_backbones.weights.layouts import GATE_TENSOR, split_detector
from se_backbones.weights.loader import load_weights
from se_backbones.weights.report import LoadReport
from se_backbones.weights.target import Target
from se_backbones.weights.weights_file import WeightsFile, read_state_dict


def load_weights_inserting_se(
    model: nn.Module,
    source: str | os.PathLike | Mapping[str, Tensor] | WeightsFile,
    allow: Sequence[str] = (),
    *,
    preprocessing: Preprocessing | Mapping | None = None,
    network: str | None = None,
) -> LoadReport:
    """Loads the weights of a plain network into a model with SE, which then computes what the plain one would.

    ``load_weights`` for every name but the gates', and then ``insert_se`` on what was loaded.

    Args:
        model: holds one backbone with SE, freshly built: a backbone, a classifier, a detector.
        source, allow, preprocessing, network: as for load_weights; a classifier's or a whole detector's weights,
            without SE.

    Returns:
        load_weights' report. The gates stand under ``derived``, and a note says where SE was inserted and how.

    Raises:
        WeightsError: the weights hold SE already; SE with the model's settings cannot be inserted without changing
            the function; or as for load_weights. The model has not been touched.
    """
    try:
        backbone = find_network(model)
        sites = [site for site in sites_of(model) if site.gate is not None]
        if not sites:
            raise ValueError("the model has no squeeze-and-excitation: there is nothing to insert")
        se = neutral_config(backbone.spec.se)
        for site in sites if se.gate == "sigmoid" else ():
            check_absorbers(site, se.placement)
    except ValueError as error:
        raise WeightsError(f"SE cannot be inserted: {error}") from None
    weights = source if isinstance(source, WeightsFile) else read_state_dict(source)
    _refuse_se(weights, "load them as they are, without inserting SE (MODEL.SE.INSERT False)")
    gates = [name for name in Target(model).tensors if GATE_TENSOR.search(name)]
    allow = [*allow, *(f"missing:{name}" for name in gates)]
    report = load_weights(model, weights, allow, preprocessing=preprocessing, network=network)
    for site in sites:
        make_neutral(site)
    backbone.spec = replace(backbone.spec, se=se)
    text = describe_insertion(model)
    report.missing = [name for name in report.missing if name not in gates]
    report.allowed = {name: pattern for name, pattern in report.allowed.items() if name not in gates}
    report.derived |= dict.fromkeys(gates, "a gate of the inserted SE")
    report.notes.append(text)
    return report


def describe_insertion(model: nn.Module) -> str:
    """Where SE was inserted and how, in one sentence."""
    se = find_network(model).spec.se
    sites = [site for site in sites_of(model) if site.gate is not None]
    stages = ", ".join(dict.fromkeys(site.stage for site in sites))
    if se.gate == "relu":
        how = "each gate starts at exactly 1"
    else:
        absorbers = dict.fromkeys((a.name, a.side) for site in sites for a in site.absorbers())
        doubled = {"input": "doubled weights", "output": "doubled weight and bias"}
        layers = " and ".join(f"{name} has {doubled[side]}" for name, side in absorbers)
        how = f"each gate starts at exactly 0.5 and {layers}"
    same = "the network computes what it did without"
    if _halves_maps(model):
        same = "the logits are what they were without; a map that a gate ends is halved"
    return (
        f"SE inserted into {len(sites)} units ({stages}): placement {se.placement}, gate {se.gate}, "
        f"reduction {se.reduction}; {how}, so that {same}"
    )


def _halves_maps(model: nn.Module) -> bool:
    """Whether the inserted gates keep the logits alone: a map that is handed out has its gate's factor, which a layer
    behind it takes up."""
    network = find_network(model)
    if network.num_classes < 1 or network.spec.se.gate == "relu":
        return False
    stages = {block: network.stage_of(path) for path, block in network.named_blocks()}
    last = {stage: block for block, stage in stages.items() if stage in network.out_features}  # block of each stage
    for site in sites_of(model):
        behind = [layer.module for layer in site.absorbers() if layer.side == "input"] if site.gate else ()
        if last.get(site.stage) is site.owner and not set(behind) <= set(site.owner.modules()):
            return True
    return False


def _refuse_se(weights: WeightsFile, advice: str) -> None:
    held = [key for key, name in weights.names.items() if GATE_TENSOR.search(name)]
    if held:
        raise WeightsError(
            f"{weights.source}: these weights hold squeeze-and-excitation already ({held[0]} and {len(held) - 1} more "
            f"tensors): {advice}"
        )


@dataclass(frozen=True)
class Insertion:
    """What insert_se_into_file wrote.

    Attributes:
        largest_difference: of any output of the file's network from the plain one's, on random images (of the
            logits alone where maps are halved, see ``insert_se``); ``largest_value``: the largest output, for scale.
        timm: empty where timm's own seresnet can hold it (shown by writing it), else why not.
        sigmoid_difference: for a relu gate, the largest difference of an output if a program took the same weights
            for the paper's sigmoid form; None for a sigmoid gate.
    """

    out: Path
    architecture: str
    note: str
    tensors: int
    tensors_sha256: str
    largest_difference: float
    largest_value: float
    timm: str
    sigmoid_difference: float | None

    def __str__(self) -> str:
        lines = [
            f"{self.out}: {self.architecture}, {self.tensors} tensors, sha256 of the tensors "
            f"{self.tensors_sha256[:16]}…",
            f"  {self.note}",
            f"  outputs on random images differ from the plain network's by at most {self.largest_difference:.3g} "
            f"(the largest is {self.largest_value:.3g})",
        ]
        if self.sigmoid_difference is not None:
            lines.append(
                "  relu gates are this package's own form: a program that takes them for sigmoids finds gates of "
                f"{1 / (1 + math.exp(-1)):.3f} in place of 1, and outputs that differ by up to "
                f"{self.sigmoid_difference:.3g}"
            )
        elif self.timm:
            lines.append(f"  the gates are the paper's sigmoid form; timm's networks cannot hold them: {self.timm}")
        else:
            lines.append(
                f"  the paper's standard form, which other programs read: python tools/convert_weights.py {self.out} "
                "FILE --to timm"
            )
        return writable("\n".join(lines))


def insert_se_into_file(
    source: str | os.PathLike,
    out: str | os.PathLike,
    se_config: SEConfig | None = None,
    *,
    architecture: str | None = None,
    force: bool = False,
) -> Insertion:
    """Reads a plain network's weights and writes its SE twin's, which computes the same.

    Args:
        source: a file in any layout, or a named source, of a backbone, a classifier or a detector.
        out: ``.safetensors``, or ``.pth`` (torch.save); our layout, with the metadata that convert_file writes and
            the SE settings.
        se_config: SEConfig() by default.
        architecture: the plain network's name, where tensors and layout do not tell it.
        force: overwrite ``out``. The source is never overwritten.

    Returns:
        what was written, read back and compared with the plain network on random images.

    Raises:
        WeightsError: the source cannot be read or has SE already, SE with these settings cannot be inserted, or
            ``out`` exists.
    """
    out = Path(out)
    if out.suffix not in (".safetensors", ".pth"):
        raise WeightsError(f"{out}: the file must end in .safetensors or .pth")
    if out.exists() and not force:
        raise WeightsError(f"{out}: exists already; remove it or use --force")
    try:
        se = neutral_config(SEConfig() if se_config is None else se_config)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise WeightsError(f"{out}: is the source itself; give another file to write to")
    with tempfile.TemporaryDirectory() as folder:
        done = convert_file(source, Path(folder) / "plain.safetensors", architecture=architecture)
        weights = read_state_dict(done.out)
        weights.source = os.fspath(source)
        _refuse_se(weights, "there is nothing to insert")
        places = _places(weights)
        network = _build(weights, places, done.architecture)
        images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        plain = _outputs(network, images)
        try:
            insert_se(network, se)
        except ValueError as error:
            raise WeightsError(str(error)) from None
        if _halves_maps(network):
            plain = {"logits": plain["logits"]}
        note = describe_insertion(network)
        tensors = _with_gates(weights, places, network)
        metadata = {
            **done.metadata,
            "architecture": network.spec.name,
            "se": json.dumps(asdict(network.spec.se)),
            "inserted": note,
        }
        made = Path(folder) / f"twin{out.suffix}"
        with atomic_path(made) as temporary:
            _write(temporary, tensors, metadata)
        written = read_state_dict(made)
        twin = _build(written, _places(written), network.spec.name, network.spec.se)
        ours = _outputs(twin, images)
        sigmoid = None
        if se.gate == "relu":
            twin = _build(written, _places(written), network.spec.name, replace(network.spec.se, gate="sigmoid"))
            sigmoid = _largest_difference(_outputs(twin, images), plain)
        timm = "" if sigmoid is None else "they are no sigmoids"
        if written.is_detector:
            timm = "timm has no detectors"
        elif not timm:
            try:
                convert_file(made, Path(folder) / "timm.safetensors", "timm")
            except WeightsError as error:
                timm = str(error).removeprefix(f"{made}: ")
        with atomic_path(out) as temporary:  # which may be a pipe
            shutil.copyfile(made, temporary)
    largest = max(value.abs().max().item() for value in plain.values())
    checksum = tensors_sha256(tensors)
    difference = _largest_difference(ours, plain)
    return Insertion(out, network.spec.name, note, len(tensors), checksum, difference, largest, timm, sigmoid)


def _places(weights: WeightsFile) -> dict[str, str]:
    """The network's tensors: the name in the network -> the name in the file (a detector's, say)."""
    places = {}
    for key, name in weights.names.items():
        prefix, inner = split_detector(name, weights.family) if weights.is_detector else ("", name)
        if prefix or not weights.is_detector:
            places[inner] = key
    return places


def _build(weights: WeightsFile, places: Mapping[str, str], name: str, se: SEConfig | None = None) -> Backbone:
    """The network of a file in our layout, with its weights, in eval mode."""
    state = {inner: weights.tensor(key) for inner, key in places.items()}
    row = find_spec(name)
    whole = skeleton(row)
    network = build(
        row.with_se(se),
        weights.shape.num_classes,
        norm="BN" if any(inner.endswith(".running_var") for inner in state) else "GN",
        out_features=[stage for stage in whole.stages if any(whole.stage_of(inner) == stage for inner in state)],
    )
    load_weights(network, state, network=name)  # a dictionary does not say where strides are
    return network.eval()


@torch.no_grad()
def _outputs(network: Backbone, images: Tensor) -> dict[str, Tensor]:
    features = network.forward_features(images)
    if network.num_classes > 0:
        features["logits"] = network.classify(features[network.stages[-1]])
    return features


def _largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs)


def _with_gates(weights: WeightsFile, places: Mapping[str, str], network: Backbone) -> dict[str, Tensor]:
    """The file's tensors with the network's in their places, in the file's own number types, and the gates beside
    the tensors of their owners."""
    tensors = dict(weights.state_dict)
    for name, tensor in network.state_dict().items():
        if name in places:
            tensors[places[name]] = tensor.to(tensors[places[name]].dtype)
        elif found := GATE_TENSOR.match(name):
            # Where the owner has no tensors of its own, those of its parent tell the place.
            prefixes = (f"{found[1]}.", f"{found[1].rpartition('.')[0]}.")
            kept = [inner for inner in places if inner.endswith(".weight")]
            beside = next(inner for prefix in prefixes for inner in kept if inner.startswith(prefix))
            tensors[_in_file(name, beside, places[beside])] = tensor.to(tensors[places[beside]].dtype)
    return tensors


def _in_file(name: str, beside: str, place: str) -> str:
    """The file's name of a tensor, where the file has the tensor ``beside`` at ``place``."""
    ours, theirs = beside.split("."), place.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return ".".join((*theirs, *name.split(".")[len(ours) :]))


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    if path.suffix == ".safetensors":
        write_safetensors(path, tensors, metadata)
    else:
        torch.save({"format": WEIGHTS_FORMAT, "metadata": dict(metadata), "state_dict": dict(tensors)}, path)
