"""Caffe's .caffemodel: a NetParameter message of Protocol Buffers, read without Caffe and without protobuf.

The numbers of the fields are those of BVLC/caffe's src/caffe/proto/caffe.proto, in both of the forms that name their
layers: ``layer`` (since 2014) and ``layers`` (V1, before it). What a network's layers are connected to is not read.
"""

from __future__ import annotations

import math
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from se_backbones.errors import WeightsError
from se_backbones.weights.formats.protobuf_wire import BYTES, FIXED32, FIXED64, VARINT, Field, WireReader

# NetParameter: what may come in front of the layers (name, input, input_dim, force_backward, state, debug_info,
# input_shape), with the kind of each; then the layers, in either form.
_NET = {1: BYTES, 3: BYTES, 4: VARINT, 5: VARINT, 6: BYTES, 7: VARINT, 8: BYTES}
_LAYER, _LAYER_V1 = 100, 2
# BlobProto: data, diff, double_data, double_diff; shape; and num, channels, height, width in place of shape.
_DATA, _DOUBLE_DATA, _SHAPE, _LEGACY_SHAPE = 5, 8, 7, (1, 2, 3, 4)
_MAX_AXES = 32  # kMaxBlobAxes in blob.hpp

# V1LayerParameter.LayerType, each under the name that today's form gives it (upgrade_proto.cpp).
_V1_TYPES = dict(
    enumerate(
        "|Accuracy|BNLL|Concat|Convolution|Data|Dropout|EuclideanLoss|Flatten|HDF5Data|HDF5Output|Im2col|ImageData|"
        "InfogainLoss|InnerProduct|LRN|MultinomialLogisticLoss|Pooling|ReLU|Sigmoid|Softmax|SoftmaxWithLoss|Split|TanH|"
        "WindowData|Eltwise|Power|SigmoidCrossEntropyLoss|HingeLoss|MemoryData|ArgMax|Threshold|DummyData|Slice|MVN|"
        "AbsVal|Silence|ContrastiveLoss|Exp|Deconvolution".split("|")
    )
)


@dataclass(frozen=True)
class CaffeLayer:
    """A layer of the file.

    Attributes:
        name: as the network's definition has it, ``conv2_1_1x1_reduce/bn``.
        type: ``Convolution``, ``BatchNorm``, …; types of the V1 form under today's names.
        blobs: its parameters in Caffe's order, float32, each of the shape that the file says.
    """

    name: str
    type: str
    blobs: tuple[Tensor, ...] = ()


def looks_like_caffemodel(head: bytes) -> bool:
    """Whether a file that begins with these bytes (some hundred) is a .caffemodel: up to its first layer's type."""
    wire = WireReader(head, partial=True)
    try:
        for field in wire.fields(0, len(head)):
            if field.number in (_LAYER, _LAYER_V1) and field.kind == BYTES:
                return _begins_a_layer(wire, field)
            if _NET.get(field.number) != field.kind or (field.number in (5, 7) and field.value > 1):
                return False
    except WeightsError:  # no message of Protocol Buffers
        pass
    return False


def begins_with_a_name(head: bytes) -> bool:
    """Whether a file begins as a .caffemodel does, with the network's name, whatever comes behind."""
    name = head[2 : 2 + head[1]] if head[:1] == b"\n" and len(head) > 1 else b""
    return bool(name) and len(name) == head[1] and name.isascii() and name.decode().isprintable()


def _begins_a_layer(wire: WireReader, layer: Field) -> bool:
    named = False
    number_of_name, number_of_type = (1, 2) if layer.number == _LAYER else (4, 5)
    for field in wire.fields(layer.start, layer.end):
        if field.number == number_of_name:
            named = wire.text(field).isprintable()
        elif field.number == number_of_type and layer.number == _LAYER:
            return named and re.fullmatch(r"\w+", wire.text(field)) is not None
        elif field.number == number_of_type:
            return named and field.kind == VARINT and field.value in _V1_TYPES
    return False


def read_caffemodel(path: str | Path) -> list[CaffeLayer]:
    """The layers of a .caffemodel, in the file's order, those without parameters too.

    The format has no checksum and no length: a file cut exactly between two layers has no mark of it, and only whoever
    asks for the layers behind the cut will notice.

    Raises:
        WeightsError: the file is cut or damaged; a blob has more or fewer numbers than its shape; it has no layers, or
            layers in Caffe's form of 2013, without names.
    """
    size = os.path.getsize(path)
    if size == 0:
        raise WeightsError(f"{path}: the file is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        wire = WireReader(data)
        with _at(f"{path}: cut short or damaged; fetch it again"):
            layers = [field for field in wire.fields(0, size) if field.number in (_LAYER, _LAYER_V1)]
        if not layers:
            raise WeightsError(f"{path}: it has no layers")
        if any(layer.number != layers[0].number for layer in layers):
            raise WeightsError(f"{path}: it has layers in both of Caffe's forms, of which Caffe itself reads only one")
        return [_layer(wire, field, f"{path}: layer {number}") for number, field in enumerate(layers, 1)]


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Says in front of an error where it was."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from None


def _layer(wire: WireReader, layer: Field, where: str) -> CaffeLayer:
    """One LayerParameter or V1LayerParameter."""
    v1 = layer.number == _LAYER_V1
    name, kind, blobs = "", "", []
    with _at(where):
        _must_be(layer, BYTES)
        for field in wire.fields(layer.start, layer.end):
            if field.number == (4 if v1 else 1):
                name = wire.text(field)
            elif field.number == (5 if v1 else 2):
                kind = _v1_type(field) if v1 else wire.text(field)
            elif field.number == (6 if v1 else 7):
                _must_be(field, BYTES)
                blobs.append(field)
            elif v1 and field.number == 1:
                raise WeightsError("it is written in Caffe's form of 2013; Caffe's upgrade_net_proto_binary renews it")
    tensors = []
    for number, blob in enumerate(blobs):
        with _at(f"{where} {name!r}, blob {number}"):
            tensors.append(_blob(wire, blob))
    return CaffeLayer(name, kind, tuple(tensors))


def _must_be(field: Field, kind: int) -> None:
    if field.kind != kind:
        raise WeightsError(f"its field {field.number} is of a kind that it cannot have; the file is damaged")


def _v1_type(field: Field) -> str:
    _must_be(field, VARINT)
    return _V1_TYPES.get(field.value, f"V1 type {field.value}")


def _blob(wire: WireReader, blob: Field) -> Tensor:
    shape, legacy, parts = [], {}, {_DATA: [], _DOUBLE_DATA: []}
    for field in wire.fields(blob.start, blob.end):
        if field.number == _SHAPE:
            _must_be(field, BYTES)
            for dim in wire.fields(field.start, field.end):
                if dim.number == 1:
                    shape += wire.integers(dim, _MAX_AXES)
                if len(shape) > _MAX_AXES:
                    raise WeightsError(f"its shape has more than {_MAX_AXES} axes")
        elif field.number in _LEGACY_SHAPE:
            _must_be(field, VARINT)
            legacy[field.number] = wire.integers(field, 1)[0]
        elif field.number in parts:
            parts[field.number].append(field)
    if legacy:  # as in Blob::FromProto: it goes before a shape, and what is not there is 0
        shape = [legacy.get(number, 0) for number in _LEGACY_SHAPE]
    if any(length < 1 for length in shape):
        raise WeightsError(f"its shape {shape} has a length that is no count")
    if all(parts.values()):
        raise WeightsError("it has its numbers twice, as float and as double")
    kind, fields = (FIXED64, parts[_DOUBLE_DATA]) if parts[_DOUBLE_DATA] else (FIXED32, parts[_DATA])
    pieces = [wire.numbers(field, kind) for field in fields]
    values = pieces[0] if len(pieces) == 1 else torch.cat([torch.empty(0), *pieces])
    if math.prod(shape) != len(values):
        raise WeightsError(f"its shape {shape} needs {math.prod(shape):,} numbers, and it has {len(values):,}")
    return values.reshape(shape)


def caffe_state_dict(layers: Iterable[CaffeLayer], where: str = "the network") -> dict[str, Tensor]:
    """The parameters of a network under names as torch has them, behind Caffe's own name of the layer.

    ================ ============================= ====================================================
    type             blobs                         names and shapes
    ================ ============================= ====================================================
    Convolution      weight[, bias]                weight (out, in / groups, kh, kw), bias (out,)
    InnerProduct     weight[, bias]                weight (out, in), bias (out,)
    BatchNorm        mean, variance, factor        running_mean, running_var (C,), each divided by the factor; 0
                                                   gives 0, as in batch_norm_layer.cpp
    Scale            scale[, bias]                 weight (C,), bias (C,)
    ================ ============================= ====================================================

    Vectors and matrices of the V1 form have axes of length 1 in front, which go. An InnerProduct with ``transpose``
    has its weight the other way round and no mark of it in its blobs.

    Args:
        where: the file, for messages.

    Raises:
        WeightsError: a layer of another type has blobs; their number or shapes do not fit the type; or two layers with
            blobs have one name.
    """
    state: dict[str, Tensor] = {}
    for layer in layers:
        if not layer.blobs:
            continue
        with _at(f"{where}: layer {layer.name!r} of type {layer.type!r}"):
            if not layer.name:
                raise WeightsError("it has parameters and no name")
            if layer.type not in _READERS:
                raise WeightsError(f"parameters of this type are not known, only those of {', '.join(_READERS)}")
            for name, tensor in _READERS[layer.type](*_expect(layer)).items():
                if state.setdefault(f"{layer.name}.{name}", tensor) is not tensor:
                    raise WeightsError("another layer of this name has parameters too")
    return state


def _expect(layer: CaffeLayer) -> tuple[Tensor, ...]:
    counts = (3,) if layer.type == "BatchNorm" else (1, 2)
    if len(layer.blobs) not in counts:
        raise WeightsError(f"it has {len(layer.blobs)} blobs, and {' or '.join(map(str, counts))} are expected")
    return layer.blobs


def _vector(blob: Tensor, length: int | None = None) -> Tensor:
    """A vector without the axes of length 1 that the V1 form gives it."""
    if blob.dim() == 0 or blob.numel() != blob.shape[-1] or length not in (None, blob.numel()):
        raise WeightsError(f"a blob of shape {tuple(blob.shape)} is not the vector of {length or 'numbers'} expected")
    return blob.reshape(-1)


def _with_bias(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    return {"weight": weight} | ({} if bias is None else {"bias": _vector(bias, len(weight))})


def _convolution(weight: Tensor, bias: Tensor | None = None) -> dict[str, Tensor]:
    if weight.dim() != 4:
        raise WeightsError(f"a weight of shape {tuple(weight.shape)} is not that of a convolution of images")
    return _with_bias(weight, bias)


def _inner_product(weight: Tensor, bias: Tensor | None = None) -> dict[str, Tensor]:
    if weight.dim() < 2 or weight.numel() != weight.shape[-2] * weight.shape[-1]:
        raise WeightsError(f"a weight of shape {tuple(weight.shape)} is no matrix")
    return _with_bias(weight.reshape(weight.shape[-2:]), bias)


def _batch_norm(mean: Tensor, variance: Tensor, factor: Tensor) -> dict[str, Tensor]:
    mean, factor = _vector(mean), _vector(factor, 1)
    variance = _vector(variance, len(mean))
    if factor == 0:  # nothing was ever summed up
        return {"running_mean": torch.zeros_like(mean), "running_var": torch.zeros_like(variance)}
    return {"running_mean": mean / factor, "running_var": variance / factor}


def _scale(weight: Tensor, bias: Tensor | None = None) -> dict[str, Tensor]:
    return _with_bias(_vector(weight), bias)


_READERS = {"Convolution": _convolution, "InnerProduct": _inner_product, "BatchNorm": _batch_norm, "Scale": _scale}
