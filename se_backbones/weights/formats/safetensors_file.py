"""The safetensors format: a header of names, types, shapes and places, then the numbers. Nothing can run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.errors import WeightsError


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


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata.

    Raises:
        WeightsError: safetensors is not installed; the file is cut or damaged; or it carries our checksum
            (``tensors_sha256``) and its tensors do not match it.
    """
    library = _library(path)
    try:
        # The library compares every type, shape and place with the file's size before it makes a tensor.
        with library.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = library.torch.load_file(str(path), device="cpu")
    except Exception as error:
        raise WeightsError(f"{path}: cut short or damaged ({error}); fetch it again") from None
    stated = metadata.get("tensors_sha256")
    if stated and stated != tensors_sha256(tensors):
        raise WeightsError(f"{path}: damaged, its tensors do not match the checksum written with them")
    return tensors, metadata


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors with metadata and their checksum. The caller sees to it that the file appears whole."""
    library = _library(path)
    # One storage a tensor: shared memory has no form in safetensors.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    library.torch.save_file(owned, str(path), {**metadata, "tensors_sha256": tensors_sha256(owned)})
