"""The safetensors format: a header of names, types, shapes and places, then the numbers. Nothing can run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.weights.formats.own_format import is_ours


def _library(path):
    try:
        import safetensors.torch
    except ImportError:
        raise WeightsError(f"{path}: reading and writing .safetensors needs `pip install safetensors`") from None
    return safetensors


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of names, types, shapes and bytes: the same for equal tensors in any file and order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{str(tensor.dtype).removeprefix('torch.')}|{list(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file begins with a header: its length in eight bytes, then JSON, a dictionary."""
    return head[4:9] == b"\0\0\0\0{" or head[8:10] in (b'{"', b"{}")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata.

    Raises:
        WeightsError: safetensors is not installed; the file is cut or damaged; it has numbers of a type that torch
            lacks; or it is one of ours, with a checksum (``tensors_sha256``) that its tensors do not match.
    """
    library = _library(path)
    try:
        # The library compares every type, shape and place with the file's size before it makes a tensor.
        tensors, metadata = _read(library, path)
    except Exception as error:
        if found := re.search(r"Dtype not understood: (\w+)", str(error)):  # the header is whole, the file too
            raise WeightsError(
                f"{path}: holds {found[1]} numbers, a type that torch {torch.__version__} does not have; write them as "
                "another one where the file comes from"
            ) from None
        raise WeightsError(f"{path}: cut short or damaged ({error}); fetch it again") from None
    stated = metadata.get("tensors_sha256") if is_ours(metadata) else None
    if stated and stated != tensors_sha256(tensors):
        raise WeightsError(f"{path}: damaged, its tensors do not match the checksum written with them")
    return tensors, metadata


def _read(library, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # a name that is not UTF-8, which the library does not open
        data = path.read_bytes()
        tensors = library.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return tensors, header.get("__metadata__", {})
    with library.safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    return library.torch.load_file(str(path), device="cpu"), metadata


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors with metadata and their checksum. The caller sees to it that the file appears whole."""
    library = _library(path)
    # One storage a tensor: shared memory has no form in safetensors.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    library.torch.save_file(owned, str(path), {**metadata, "tensors_sha256": tensors_sha256(owned)})
