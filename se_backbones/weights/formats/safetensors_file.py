"""The safetensors format: a header of names, types, shapes and places, then the numbers. Nothing can run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.weights.errors import WeightsError

MAX_HEADER = 100_000_000  # the format's own limit
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}


def _library(path):
    try:
        import safetensors.torch
    except ImportError:
        raise WeightsError(f"{path}: reading and writing .safetensors needs `pip install safetensors`") from None
    return safetensors.torch


def _unique(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def read_header(path: Path) -> tuple[dict, dict[str, str]]:
    """The tensors' descriptions and the metadata, with every size checked against the file's.

    Raises:
        WeightsError: the file is cut, or its header does not describe its bytes exactly.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise WeightsError(f"{path}: cut short or damaged, its header should have {length:,} bytes")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_unique)
            metadata = header.pop("__metadata__", None) or {}
            if not all(isinstance(text, str) for text in dict(metadata).values()):
                raise ValueError("its metadata are not texts by name")
            ends = _ends(header)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise WeightsError(f"{path}: damaged, its header cannot be read ({error})") from None
    expected = 8 + length + (ends[-1][1] if ends else 0)
    if expected != size:
        raise WeightsError(
            f"{path}: its tensors need {expected:,} bytes and the file has {size:,}; it is cut short or "
            "damaged, fetch it again"
        )
    return header, metadata


def _ends(header: dict) -> list[tuple[int, int]]:
    places = []
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        count = 1
        for length in tensor["shape"]:
            if type(length) is not int or length < 0:
                raise ValueError(f"{name} has the shape {tensor['shape']}")
            count *= length
        if end - begin != count * _BITS[tensor["dtype"]]:
            raise ValueError(f"{name} has {end - begin} bytes for the shape {tensor['shape']}")
        places.append((begin, end))
    places.sort()
    at = 0
    for begin, end in places:
        if begin != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = end
    return places


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of names, types, shapes and bytes: the same for equal tensors in any file and order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{str(tensor.dtype).removeprefix('torch.')}|{list(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata.

    Raises:
        WeightsError: safetensors is not installed; the file is cut or damaged; or it carries our checksum
            (``tensors_sha256``) and its tensors do not match it.
    """
    library = _library(path)
    _, metadata = read_header(path)
    try:
        tensors = library.load_file(str(path), device="cpu")
    except Exception as error:
        raise WeightsError(f"{path}: damaged, {error}") from None
    stated = metadata.get("tensors_sha256")
    if stated and stated != tensors_sha256(tensors):
        raise WeightsError(f"{path}: damaged, its tensors do not match the checksum written with them")
    return tensors, metadata


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors with metadata and their checksum. The caller sees to it that the file appears whole."""
    library = _library(path)
    # One storage a tensor: shared memory has no form in safetensors.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    library.save_file(owned, str(path), {**metadata, "tensors_sha256": tensors_sha256(owned)})
