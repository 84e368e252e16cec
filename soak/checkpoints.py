"""Weights files with an accident in them: read equal, or refused; and a run folder whose newest checkpoint has one."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from engine.errors import UserError
from engine.train.checkpoint import checkpoint_path, load_checkpoint, newest_checkpoint, save_checkpoint
from se_backbones import create_backbone
from se_backbones.weights import WeightsError, load_safely, read_state_dict
from soak.mutation import mutate_bytes
from soak.pool import Outcome, Trial, last_traceback

ARCHITECTURE = "se_resnet20_cifar"
CLASSES = 4
CHECKSUMS = ("checkpoint", "torch zip", "run folder")  # kinds that have one of every byte of content


def prepare_checkpoints(folder: Path) -> Trial:
    """A file of each form, and the trials of them."""
    files = _files(folder)
    whole = {kind: load_safely(path) for kind, path in files.items()}
    kinds = [*files, "run folder"]

    def trial(seed: int, place: Path) -> Outcome:
        kind, random = kinds[seed % len(kinds)], np.random.default_rng(seed)
        if kind == "run folder":
            return _newest(files["checkpoint"], whole["checkpoint"], random, place)
        data, accident = mutate_bytes(files[kind].read_bytes(), random)
        path = place / files[kind].name
        path.write_bytes(data)
        try:
            result = _read(kind, path, whole[kind])
        except Exception:
            return Outcome(f"{kind}, {accident}", "traceback", last_traceback())
        finally:
            changed = path.read_bytes() != data
            path.unlink()
        wrong = result == "differs" and kind in CHECKSUMS
        fault = "the file was changed by reading it" if changed else "loaded with other values" if wrong else ""
        return Outcome(f"{kind}, {accident}", result, fault)

    return trial


def _read(kind: str, path: Path, whole) -> str:
    """Reads it by every door. A form that has no checksum may come out different, which is counted."""
    try:
        content = load_safely(path)
    except WeightsError as error:
        return _refused(error, path)
    try:
        read_state_dict(path)
    except WeightsError as error:
        if kind != "caffemodel":  # this one is of no network that is known
            return _refused(error, path)
    if kind == "checkpoint":
        try:
            content = load_checkpoint(path)
        except UserError as error:
            return _refused(error, path)
    return "equal" if same(content, whole) else "differs"


def _refused(error: Exception, path: Path) -> str:
    if str(path) not in str(error):
        raise AssertionError(f"the message does not name the file: {error}")
    return "refused"


def _newest(file: Path, whole: dict, random: np.random.Generator, run: Path) -> Outcome:
    """Three checkpoints, the last one or two of them damaged: the newest whole one is found."""
    data = file.read_bytes()
    damaged = int(random.integers(1, 3))
    for step in (1, 2, 3):
        checkpoint_path(run, step).write_bytes(mutate_bytes(data, random)[0] if step > 3 - damaged else data)
    try:
        found = newest_checkpoint(run)
        content = None if found is None else load_checkpoint(found)
    except Exception:
        return Outcome("run folder", "traceback", last_traceback())
    number = 0 if found is None else int(found.stem.rpartition("_")[2])
    fault = "" if number >= 3 - damaged and same(content, whole) else f"checkpoint {number} of 3, {damaged} damaged"
    return Outcome("run folder", "an older one" if number < 3 else "the newest", fault)


def same(first, second) -> bool:
    """Whether values as checkpoints hold them are equal, tensors and arrays bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        alike = first.dtype == second.dtype and first.shape == second.shape
        return alike and _bytes(first) == _bytes(second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and bool(first == second)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _files(folder: Path) -> dict[str, Path]:
    """One small network, as after a training, in each form that is read."""
    network = create_backbone(ARCHITECTURE, CLASSES)
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    momentum = {index: {"momentum_buffer": tensor.clone()} for index, tensor in enumerate(network.parameters())}
    ours = {
        "task": "classification", "backbone": ARCHITECTURE, "classes": list("abcd"), "iteration": 3, "seconds": 1.5,
        "preprocessing": {"channel_order": "RGB", "scale": 1, "mean": [0.5] * 3, "std": [0.25] * 3}, "ema": None,
        "model": state, "optimizer": {"state": momentum, "param_groups": [{"lr": 0.1}]},
    }  # fmt: skip
    names = ("ours.pth", "zip.pth", "legacy.pth", "w.safetensors", "arrays.pkl", "net.caffemodel")
    kinds = ("checkpoint", "torch zip", "torch legacy", "safetensors", "pickle", "caffemodel")
    files = {kind: folder / name for kind, name in zip(kinds, names, strict=True)}
    with torch.no_grad():
        save_checkpoint(files["checkpoint"], ours)
        torch.save({"state_dict": state, "epoch": 1}, files["torch zip"])
        torch.save({"state_dict": state, "epoch": 1}, files["torch legacy"], _use_new_zipfile_serialization=False)
        save_file(state, files["safetensors"], {"format": "pt"})
    files["pickle"].write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol=2))
    files["caffemodel"].write_bytes(_caffemodel(arrays))
    return files


def _caffemodel(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Convolutions as Caffe writes them: NetParameter.layer of LayerParameter.blobs (caffe.proto), in protobuf's wire
    format."""

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    def layer(name: str, array: np.ndarray) -> bytes:
        shape = field(1, b"".join(map(varint, array.shape)))
        blob = field(5, struct.pack(f"<{array.size}f", *array.ravel())) + field(7, shape)
        return field(100, field(1, name.encode()) + field(2, b"Convolution") + field(7, blob))

    kernels = {name: array for name, array in arrays.items() if array.ndim == 4}
    return field(1, b"net") + b"".join(layer(name, array) for name, array in kernels.items())
