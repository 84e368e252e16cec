"""``convert_file``: weights from any layout into a file of another, and what a reader must know inside."""

from __future__ import annotations

import fnmatch
import json
import os
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.files import atomic_path
from se_backbones.registry import Spec, find_spec, list_backbones, skeleton
from se_backbones.se import SEConfig
from se_backbones.text import writable
from se_backbones.weights.account import check_account
from se_backbones.weights.formats.own_format import WEIGHTS_FORMAT
from se_backbones.weights.formats.safe_load import check_name_hash
from se_backbones.weights.formats.safetensors_file import tensors_sha256, write_safetensors
from se_backbones.weights.identity import Doubt, stated_as
from se_backbones.weights.layouts import OURS, target_layout, writable_layouts, written_as
from se_backbones.weights.report import as_json, fold_names
from se_backbones.weights.shapes import candidates, guess_architecture, same_network
from se_backbones.weights.statistics import biases_without_place, neutral_statistics
from se_backbones.weights.weights_file import WeightsFile, read_state_dict

SUFFIXES = (".safetensors", ".pth", ".pkl")


@dataclass(frozen=True)
class Conversion:
    """What convert_file wrote."""

    out: Path
    layout: str
    architecture: str
    tensors: int
    numbers: int
    tensors_sha256: str
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        known = [f"{key} {self.metadata[key]}" for key in ("preprocessing", "source") if key in self.metadata]
        classes = json.loads(self.metadata.get("classes", "[]"))
        known += [f"{len(classes)} classes"] if classes else []
        return writable(
            f"{self.out}: {self.architecture} as {self.layout}, {self.tensors} tensors, {self.numbers:,} numbers, "
            f"sha256 of the tensors {self.tensors_sha256[:16]}…\n  " + "\n  ".join((*known, *self.notes))
        )


def convert_file(
    source: str | os.PathLike,
    out: str | os.PathLike,
    to: str = "ours",
    *,
    architecture: str | None = None,
    leave_out: Sequence[str] = (),
    force: bool = False,
) -> Conversion:
    """Writes weights in another layout. The numbers keep their bytes; there and back gives the same tensors. (Biases in
    front of a normalisation, where our network has none, are the exception: they go into its running mean.)

    Args:
        source: a file or a named source, see ``read_state_dict``.
        out: ``.safetensors``, ``.pth`` (torch.save), or ``.pkl`` (detectron2 alone).
        to: ``ours`` or a layout of the network's family (``timm``, ``torchvision``, …). A detector stays a detector,
            in ours or detectron2.
        architecture: a name of ``list_backbones()``, where tensors and layout do not tell it, or fit others' networks
            too. Without it a file that calls itself after another network is refused, and else what is written says
            that its architecture is presumed.
        leave_out: tensors of the source that are no part of the network and are not to be written: fnmatch patterns
            over its names, or over ours (``ema_queue``, ``head.*``).
        force: overwrite ``out``. The source is never overwritten.

    Returns:
        what was written: the file has been read back and compared.

    Raises:
        WeightsError: the source cannot be read; a name or a shape in it is none of the network's, or one of the
            network's is missing; the target cannot hold this network; its architecture cannot be told; or ``out``
            exists.
    """
    out = Path(out)
    if to not in writable_layouts():
        raise WeightsError(f"--to must be one of {', '.join(writable_layouts())}; got {to!r}")
    if out.suffix not in SUFFIXES or (out.suffix == ".pkl" and to != "detectron2"):
        raise WeightsError(f"{out}: the file must end in .safetensors or .pth, or in .pkl for detectron2")
    weights = _without(read_state_dict(source), leave_out)
    if out.exists():
        if weights.path is not None and out.samefile(weights.path):
            raise WeightsError(f"{out}: is the source itself; give another file to write to")
        if not force:
            raise WeightsError(f"{out}: exists already; remove it or use --force")
    weights, row = _row(weights, architecture)
    check_account(weights, row)
    layout = target_layout(weights.family, to, weights.is_detector)
    if to != OURS and (why := layout.refuse(row, weights.shape, weights.se or {})):
        raise WeightsError(f"{weights.source}: {row.name} cannot be written to {to}: {why}")
    ours = _as_network_has_them(weights, row)
    tensors = {name: tensor.contiguous() for name, tensor in written_as(layout, ours).items()}
    metadata = _metadata(weights, row, to)
    with atomic_path(out) as temporary:
        _write(temporary, tensors, metadata, to)
        written = read_state_dict(temporary)  # here: out may be a pipe
        checksum = tensors_sha256(tensors)
        if tensors_sha256(written.state_dict) != checksum:
            raise WeightsError(f"{out}: was not read back as it was written; the disk may be failing")
        check_name_hash(out, written.sha256)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return Conversion(out, to, row.name, len(tensors), numbers, checksum, metadata, tuple(weights.notes))


def _without(weights: WeightsFile, patterns: Sequence[str]) -> WeightsFile:
    def is_named(key: str) -> bool:
        return any(fnmatch.fnmatchcase(name, p) for p in patterns for name in (key, weights.names[key]))

    left = [key for key in weights.names if is_named(key)]
    state = {key: tensor for key, tensor in weights.state_dict.items() if key not in left}
    names = {key: name for key, name in weights.names.items() if key not in left}
    notes = [f"left out: {', '.join(fold_names(left))}"] if left else []
    return replace(weights, state_dict=state, names=names, notes=[*weights.notes, *notes])


def _row(weights: WeightsFile, architecture: str | None) -> tuple[WeightsFile, Spec]:
    if architecture is not None:
        if architecture not in list_backbones():
            raise WeightsError(f"--arch: {architecture!r} is none of {', '.join(list_backbones())}")
        fitting = [row.name for row in candidates(weights.backbone(), weights.family, {})]
        if weights.architecture not in (None, architecture):
            raise WeightsError(
                f"{weights.source}: says that it is a {weights.architecture}, which --arch {architecture} contradicts"
            )
        if architecture not in fitting:
            raise WeightsError(
                f"{weights.source}: is no {architecture}; its tensors fit {', '.join(fitting) or 'no row'}"
            )
        return stated_as(weights, architecture), find_spec(architecture)
    if doubt := Doubt.of(weights):
        say = f"if you know that it is of {doubt.row.name}, say so: --arch {doubt.row.name}"
        if doubt.named:
            row = doubt.row_of(doubt.named)
            raise WeightsError(f"{weights.source}: {doubt.sentence()}; {f'--arch {row.name}, or ' if row else ''}{say}")
        weights = replace(weights, presumed=True, notes=[*weights.notes, f"{doubt.sentence()}; {say}"])
    if weights.architecture:
        row = find_spec(weights.architecture)
        if row.family != weights.family.name or not same_network(row, weights.shape, weights.family):
            raise WeightsError(
                f"{weights.source}: it says that it is a {row.name}, and its tensors are {weights.shape}"
            )
        return weights, row
    try:
        return weights, find_spec(guess_architecture(weights.backbone(), weights.facts.hyper, weights.family))
    except WeightsError as error:
        raise WeightsError(f"{weights.source}: {error} (--arch NAME)") from None


def _as_network_has_them(weights: WeightsFile, row: Spec) -> dict[str, Tensor]:
    """The tensors that our network has. Biases of convolutions that it has not go into the normalisation behind; folded
    normalisations get statistics that change nothing, but for a detector's: mean 0, variance 1 - 1e-5."""
    ours = weights.ours()
    folded = weights.form.folded_statistics and not weights.is_detector
    own = skeleton(row).state_dict()
    biases = {
        norm: ours.pop(name)
        for _, name, norm in biases_without_place(weights, own.__contains__)
        if folded or norm in ours
    }
    if folded:
        head = weights.family.network.head_paths
        norms = [name.removesuffix(".bias") for name in ours if name.endswith(".bias") and not name.startswith(head)]
        for norm in norms:
            mean, var = neutral_statistics(ours[f"{norm}.weight"], 1e-5)
            ours.setdefault(f"{norm}.running_mean", mean)
            ours.setdefault(f"{norm}.running_var", var)
    for norm, bias in biases.items():
        if bias.any():
            ours[norm] = ours[norm] - bias
    return ours


def _name(weights: WeightsFile) -> str:
    return Path(weights.source).name if weights.path and "://" not in weights.source else weights.source


def _metadata(weights: WeightsFile, row: Spec, to: str) -> dict[str, str]:
    values = {
        "format": WEIGHTS_FORMAT,
        "layout": to,
        "architecture": row.name,
        "source": writable(_name(weights)),
        "source_sha256": weights.sha256,
        "torch": torch.__version__.split("+")[0],
    }
    # What is only usual for a layout is not written down as if it were known.
    if weights.preprocessing and weights.facts.basis in ("stated", "published"):
        values["preprocessing"] = json.dumps(weights.preprocessing.as_dict())
    if weights.presumed:
        values["presumed"] = "architecture"
    if weights.classes:
        values["classes"] = as_json(weights.classes)
    if isinstance(weights.metadata.get("unmarked"), dict):  # settings that leave no mark on a tensor
        values["unmarked"] = json.dumps(weights.metadata["unmarked"])
    shape = weights.shape
    if shape.has_se:  # also in a plain row's network, by insertion
        told = {"reduction": shape.reduction, "bias": shape.se_bias, "without": shape.se_without}
        stated = weights.se or {**asdict(row.se or SEConfig()), **told}
        values["se"] = json.dumps(stated)
    return values


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], to: str) -> None:
    if path.suffix == ".safetensors":
        write_safetensors(path, tensors, metadata)
    elif path.suffix == ".pth":
        torch.save({"format": WEIGHTS_FORMAT, "metadata": metadata, "state_dict": tensors}, path)
    else:
        _write_pickle(path, tensors, metadata)


def _write_pickle(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Detectron2's own form: arrays under ``model``, and a flag that lets it match names by their endings."""
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16:
            raise WeightsError(f"{name} is bfloat16, which NumPy does not have; write to .safetensors or .pth")
        arrays[name] = tensor.numpy()
    content = {
        "model": arrays,
        "__author__": "se_backbones",
        "matching_heuristics": True,
        "format": WEIGHTS_FORMAT,
        "metadata": metadata,
    }
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=4)
