"""``convert_file``: weights from any layout into a file of another, and what a reader must know inside."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.families.resnet.table import ARCHITECTURES, Architecture
from se_backbones.se import SEConfig
from se_backbones.weights.errors import WeightsError
from se_backbones.weights.formats.safetensors_file import tensors_sha256, write_safetensors
from se_backbones.weights.layouts import WRITABLE, convert_state_dict
from se_backbones.weights.report import write_whole
from se_backbones.weights.shapes import NetworkShape, guess_architecture, rounded_hidden, same_network
from se_backbones.weights.weights_file import WEIGHTS_FORMAT, WeightsFile, read_state_dict

SUFFIXES = (".safetensors", ".pth", ".pkl")
_TORCHVISION = frozenset(
    "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d".split()
)


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
        return (
            f"{self.out}: {self.architecture} as {self.layout}, {self.tensors} tensors, {self.numbers:,} numbers, "
            f"sha256 of the tensors {self.tensors_sha256[:16]}…\n  " + "\n  ".join((*known, *self.notes))
        )


def convert_file(
    source: str | os.PathLike,
    out: str | os.PathLike,
    to: str = "ours",
    *,
    architecture: str | None = None,
    force: bool = False,
) -> Conversion:
    """Writes weights in another layout. The numbers keep their bytes; there and back gives the same tensors.

    Args:
        source: a file or a named source, see ``read_state_dict``.
        out: ``.safetensors``, ``.pth`` (torch.save), or ``.pkl`` (detectron2 alone).
        to: ``ours``, ``timm``, ``timm-legacy``, ``torchvision`` or ``detectron2``. A detector stays a
            detector, in ours or detectron2.
        architecture: a name of ``list_backbones()``, where tensors and layout do not tell it.
        force: overwrite ``out``. The source is never overwritten.

    Returns:
        what was written: the file has been read back and compared.

    Raises:
        WeightsError: the source cannot be read, the target cannot hold this network, its architecture cannot
            be told, or ``out`` exists.
    """
    out = Path(out)
    if to not in WRITABLE:
        raise WeightsError(f"--to must be one of {', '.join(WRITABLE)}; got {to!r}")
    if out.suffix not in SUFFIXES or (out.suffix == ".pkl" and to != "detectron2"):
        raise WeightsError(f"{out}: the file must end in .safetensors or .pth, or in .pkl for detectron2")
    weights = read_state_dict(source)
    if out.exists():
        if weights.path is not None and out.samefile(weights.path):
            raise WeightsError(f"{out}: is the source itself; give another file to write to")
        if not force:
            raise WeightsError(f"{out}: exists already; remove it or use --force")
    row = _row(weights, architecture)
    shape = weights.shape
    _check_target(to, row, shape, weights)
    tensors = _converted(weights, to)
    metadata = _metadata(weights, row, to)
    write_whole(out, lambda temporary: _write(temporary, tensors, metadata, to))
    written = read_state_dict(out)
    checksum = tensors_sha256(tensors)
    if tensors_sha256(written.state_dict) != checksum:
        raise WeightsError(f"{out}: was not read back as it was written; the disk may be failing")
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return Conversion(out, to, row.name, len(tensors), numbers, checksum, metadata, tuple(weights.notes))


def _row(weights: WeightsFile, architecture: str | None) -> Architecture:
    facts = weights.facts
    if architecture is not None:
        if architecture not in ARCHITECTURES:
            raise WeightsError(f"--arch: {architecture!r} is none of {', '.join(ARCHITECTURES)}")
        fitting = guess_all(weights)
        if architecture not in fitting:
            raise WeightsError(
                f"{weights.source}: is no {architecture}; its tensors fit {', '.join(fitting) or 'no row'}"
            )
        return ARCHITECTURES[architecture]
    if weights.architecture:
        row = ARCHITECTURES[weights.architecture]
        if not same_network(row, weights.shape):
            raise WeightsError(
                f"{weights.source}: it says that it is a {row.name}, and its tensors are {weights.shape}"
            )
        return row
    try:
        name = guess_architecture(weights.backbone(), stride_in_1x1=facts.stride_in_1x1, ceil_pool=facts.ceil_pool)
    except WeightsError as error:
        raise WeightsError(f"{weights.source}: {error} (--arch NAME)") from None
    return ARCHITECTURES[name]


def guess_all(weights: WeightsFile) -> list[str]:
    """Every row of the table whose tensors have these shapes."""
    names = []
    for stride in (False, True):
        for ceil in (False, True):
            try:
                names.append(guess_architecture(weights.backbone(), stride_in_1x1=stride, ceil_pool=ceil))
            except WeightsError:
                continue
    return sorted(set(names))


def _check_target(to: str, row: Architecture, shape: NetworkShape, weights: WeightsFile) -> None:
    """Refuses what the target's own code could not build."""

    def refuse(why: str):
        raise WeightsError(f"{weights.source}: {row.name} cannot be written to {to}: {why}")

    if to == "ours":
        return
    se = weights.se or {}
    odd = [f"{key} "
    f"{se[key]}" for key, usual in (("placement", "standard"), ("squeeze", "avg"), ("gate", "sigmoid"))
           if se.get(key, usual) != usual]  # fmt: skip
    if shape.has_se and odd:
        refuse(f"its SE has {', '.join(odd)}, and {to} knows the standard form alone")
    if shape.has_se and to in ("timm", "timm-legacy") and not all(shape.se_hidden):
        refuse(f"only some of its stages have SE, and {to}'s networks have it in all")
    if shape.has_se and to in ("timm", "timm-legacy") and shape.se_without:
        refuse(f"its units {', '.join(shape.se_without)} have no SE, and {to}'s networks have it in all")
    if shape.has_se and to in ("timm", "timm-legacy") and not shape.se_bias:
        refuse(f"its SE layers have no biases, and {to}'s have")
    if to == "timm-legacy":
        if not row.ceil_pool:
            refuse(
                f"timm's legacy networks pool and stride as Caffe's release did; {row.name} does not (write to timm)"
            )
        if shape.reduction != 16:
            refuse(f"its SE reduction is {shape.reduction}, and theirs is 16")
        return
    if row.ceil_pool or (row.stride_in_1x1 and to != "detectron2"):
        refuse(f"its stem or its strides are those of Caffe's release, and {to}'s networks are not")
    if to == "torchvision" and not shape.has_se and row.name not in _TORCHVISION:
        refuse(f"torchvision has {', '.join(sorted(_TORCHVISION))}")
    if to == "timm" and shape.has_se:
        for channels, hidden in zip(shape.se_channels, shape.se_hidden, strict=True):
            if hidden != rounded_hidden(channels):
                refuse(
                    f"timm rounds SE widths to multiples of 8, {rounded_hidden(channels)} for {channels} "
                    f"channels, and this network has {hidden}"
                )


def _converted(weights: WeightsFile, to: str) -> dict[str, Tensor]:
    ours = weights.ours()
    if weights.layout == "caffe2":
        ours = _with_statistics(ours)
    from_layout = weights.layout if weights.is_detector else "ours"
    if weights.is_detector:
        from_layout = "ours-detection"
    return {name: tensor.contiguous() for name, tensor in convert_state_dict(ours, from_layout, to).items()}


def _with_statistics(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Caffe2's folded normalisations get statistics that change nothing: mean 0, variance 1 - 1e-5."""
    ours = dict(ours)
    bias = ours.pop("conv1.bias", None)  # before the first normalisation: see match._fold_stem_bias
    norms = [name.removesuffix(".bias") for name in ours if name.endswith(".bias") and not name.startswith("fc.")]
    for norm in norms:
        weight = ours[f"{norm}.weight"]
        ours.setdefault(f"{norm}.running_mean", torch.zeros_like(weight))
        ours.setdefault(f"{norm}.running_var", torch.ones_like(weight) - 1e-5)
    if bias is not None and bias.any():
        ours["bn1.running_mean"] = ours["bn1.running_mean"] - bias
    return ours


def _metadata(weights: WeightsFile, row: Architecture, to: str) -> dict[str, str]:
    values = {
        "format": WEIGHTS_FORMAT,
        "layout": to,
        "architecture": row.name,
        "source": Path(weights.source).name if weights.path and "://" not in weights.source else weights.source,
        "source_sha256": weights.sha256,
        "torch": torch.__version__.split("+")[0],
    }
    # What is only usual for a layout is not written down as if it were known.
    if weights.preprocessing and weights.facts.basis in ("stated", "published"):
        values["preprocessing"] = json.dumps(weights.preprocessing.as_dict())
    if weights.classes:
        values["classes"] = json.dumps(weights.classes, ensure_ascii=False)
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
