"""Writes .caffemodel files: the few messages of Protocol Buffers that they consist of, by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

V1_TYPES = {"Convolution": 4, "Data": 5, "InnerProduct": 14, "Pooling": 17, "ReLU": 18, "Deconvolution": 39}


def varint(value: int) -> bytes:
    """Seven bits a byte; negative numbers as 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def message(number: int, content: bytes | str) -> bytes:
    """A field of bytes: a message, a text, or packed numbers."""
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(
    array, *, packed: bool = True, legacy: bool = False, double: bool = False, shape: Sequence[int] | None = None
) -> bytes:
    """A BlobProto.

    Args:
        array: the numbers; written as float, or as double.
        packed: numbers and lengths of the shape in one field, not in one each.
        legacy: num, channels, height, width, with 1 in front, in place of shape.
        shape: what to say in place of the array's own.
    """
    array = np.asarray(array)
    shape = array.shape if shape is None else shape
    values = array.astype("<f8" if double else "<f4").reshape(-1)
    number, kind = (8, 1) if double else (5, 5)
    if packed:
        data = message(number, values.tobytes())
    else:
        key = varint(number << 3 | kind)
        data = b"".join(key + struct.pack("<d" if double else "<f", value) for value in values)
    if legacy:
        lengths = (1,) * (4 - len(shape)) + tuple(shape)
        return b"".join(integer(number, length) for number, length in enumerate(lengths, 1)) + data
    if packed:
        return data + message(7, message(1, b"".join(varint(length) for length in shape)))
    return data + message(7, b"".join(integer(1, length) for length in shape))


def layer(name: str, kind: str, blobs: Iterable[bytes], *, v1: bool = False) -> bytes:
    """A field of NetParameter with one layer, its input and output named after it."""
    if v1:
        head = message(2, f"{name}_in") + message(3, name) + message(4, name) + integer(5, V1_TYPES[kind])
        return message(2, head + b"".join(message(6, each) for each in blobs))
    head = message(1, name) + message(2, kind) + message(3, f"{name}_in") + message(4, name)
    # phase (TEST), which stands behind the blobs, as in Caffe's own files
    return message(100, head + b"".join(message(7, each) for each in blobs) + integer(10, 1))


def net(layers: Iterable[bytes], name: str = "a network") -> bytes:
    return message(1, name) + b"".join(layers)


def write_caffemodel(
    path: str | Path,
    layers: Iterable[tuple[str, str, Sequence]],
    v1: bool = False,
    *,
    packed: bool = True,
    legacy: bool | None = None,
    double: bool = False,
) -> Path:
    """Writes a network.

    Args:
        layers: (name, type, arrays) of each: NumPy arrays or CPU tensors, in Caffe's order.
        v1: in the form of ``layers``; only the types of V1_TYPES.
        packed, legacy, double: of every blob, as in ``blob``; legacy shapes are usual in the V1 form.

    Returns:
        the path.
    """
    legacy = v1 if legacy is None else legacy
    fields = (
        layer(name, kind, [blob(array, packed=packed, legacy=legacy, double=double) for array in arrays], v1=v1)
        for name, kind, arrays in layers
    )
    Path(path).write_bytes(net(fields))
    return Path(path)
