"""Detectron2's and Caffe2's .pkl files: pickles of NumPy arrays, read without NumPy's own unpickling."""

from __future__ import annotations

import io
import math
import mmap
import os
import re
from pathlib import Path

import torch

from se_backbones.errors import WeightsError
from se_backbones.weights.formats.pickle_guard import Budget, GuardedUnpickler, Stand, common_globals, plain, walk

# Booleans, integers and floats of 1 to 8 bytes. Objects ("O"), records and text have no place in weights.
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
NUMPY_CORES = ("numpy.core", "numpy._core")  # NumPy renamed its core in version 2; files of both exist


class Dtype:
    """A stand-in for numpy.dtype: plain numbers alone."""

    __slots__ = ("code",)

    def __init__(self, code, *_):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise WeightsError(f"an array of type {code!r} is not numeric")
        self.code = code

    def __setstate__(self, state):
        # (version, byte order, subarray, names, fields, …): everything but the byte order must be unset.
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise WeightsError("an array type has an unknown description")
        if any(part is not None for part in state[2:5]):
            raise WeightsError("an array has a structured type")
        self.code = state[1] + self.code.lstrip("<>|=")


class _Array:
    """An array whose data are checked against its shape and type before it is made."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = None


class NumpyReader:
    """Makes arrays and numbers from what a pickle says of them.

    Args:
        size: of the file in bytes, the most that all of them together may take.
    """

    def __init__(self, size: int):
        self.left = size  # all arrays together cannot hold more bytes than the file
        self.budget = Budget(size)

    def known(self):
        names = common_globals(self.budget)
        for module in NUMPY_CORES:
            names[f"{module}.multiarray", "_reconstruct"] = Stand(self.reconstruct)
            names[f"{module}.multiarray", "scalar"] = Stand(self.scalar)
            names[f"{module}.numeric", "_frombuffer"] = Stand(self.from_buffer)
        names["numpy", "ndarray"] = "ndarray"
        names["numpy", "dtype"] = Stand(Dtype)
        return names

    def reconstruct(self, kind, shape, _code):
        if kind != "ndarray" or shape != (0,):
            raise WeightsError("an array is announced in an unknown way")
        # A class of its own at each call: what a pickle might do to it cannot reach the next array.
        pending = type("_Pending", (_Array,), {"__setstate__": lambda array, state: self.fill(array, state)})
        return pending()

    def fill(self, array, state):
        if not isinstance(state, tuple) or len(state) != 5:
            raise WeightsError("an array has an unknown state")
        _version, shape, dtype, fortran, data = state
        if isinstance(data, str):  # written by Python 2
            data = self.budget.encoded(data, "latin1")
        array.value = self.make(data, dtype, shape, "F" if fortran else "C")

    def from_buffer(self, data, dtype, shape, order):
        array = _Array()
        array.value = self.make(data, dtype, shape, order)
        return array

    def scalar(self, dtype, data):
        if isinstance(data, str):
            data = self.budget.encoded(data, "latin1")
        return self.make(data, dtype, (), "C").item()

    def make(self, data, dtype, shape, order):
        import numpy as np

        sizes_known = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 8
        if not isinstance(dtype, Dtype) or not sizes_known or order not in ("C", "F"):
            raise WeightsError("an array has an unknown type, shape or order")
        if not isinstance(data, bytes | bytearray):
            raise WeightsError("an array holds objects, not numbers")
        kind = np.dtype(dtype.code)
        needed = math.prod(shape) * kind.itemsize
        if needed != len(data):
            raise WeightsError(f"an array of shape {shape} needs {needed} bytes and the file has {len(data)} for it")
        self.left -= needed
        if self.left < 0:
            raise WeightsError("its arrays would unfold into more bytes than the file holds")
        array = np.frombuffer(data, kind).reshape(shape, order=order)
        # A copy that owns its memory, in this machine's byte order and in C order.
        array = np.array(array, kind.newbyteorder("="), order="C")
        return torch.from_numpy(array)


def _advice(module: str, name: str) -> str:
    if module.split(".")[0] == "torch":
        return (
            "It holds torch tensors pickled by themselves; where the file is yours, write it with "
            "torch.save(state_dict) or as .safetensors."
        )
    return ""


def read_numpy_pickle(path: Path):
    """The content of a .pkl file, with each array as a torch tensor on the CPU.

    Raises:
        WeightsError: the file is cut, damaged, asks for anything but arrays, or announces more data than it
            has.
    """
    if os.path.getsize(path) == 0:
        raise WeightsError(f"{path}: the file is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return parse_numpy_pickle(data, str(path))


def parse_numpy_pickle(stream: io.BufferedIOBase | mmap.mmap, where: str):
    """The plain values and arrays of a pickle, as ``read_numpy_pickle``: what Python 2 pickled, too, whose texts are
    taken as latin-1.

    Args:
        stream: the whole of it and nothing else, at its beginning.
        where: what messages call it.
    """
    size = stream.seek(0, io.SEEK_END) or stream.tell()
    stream.seek(0)
    reader = NumpyReader(size)
    end = walk(stream, where)
    if end != size:
        raise WeightsError(f"{where}: {size - end} bytes follow the end of its pickle; the file is damaged")
    stream.seek(0)
    content = GuardedUnpickler(stream, where, reader.known(), advice=_advice).read()

    def leaf(value, path_in_file):
        if isinstance(value, _Array):
            if value.value is None:
                raise WeightsError(f"{where}: the array {path_in_file} has no data")
            return value.value
        if isinstance(value, str | bytes | bytearray | int | float | complex | bool | type(None)):
            return value
        raise WeightsError(f"{where}: {path_in_file} is a {type(value).__name__}, which no weights need")

    return plain(content, where, leaf)
