"""Files of torch.save, zip form and older one: checked whole, then read by torch.load(weights_only=True).

torch.load alone is not enough: 2.14 unfolds packed entries to any size, makes a view of 10¹² numbers of a storage of
four, and a key of 300,000 nested tuples ends the process. Nor is torch.serialization.get_unsafe_globals_in_checkpoint
for the names of what is refused: it reads neither the older form nor pickles of protocol 4, and torch's own list of
what it allows is longer than weights need.
"""

from __future__ import annotations

import argparse
import io
import mmap
import os
import warnings
import zipfile
from pathlib import Path

import torch

from se_backbones.errors import WeightsError
from se_backbones.weights.formats.numpy_pickle import NUMPY_CORES, Dtype, NumpyReader
from se_backbones.weights.formats.pickle_guard import GuardedUnpickler, Stand, common_globals, plain, walk

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began a file until version 1.5

_STORAGES = {
    f"{kind}Storage": torch.empty(0, dtype=dtype).element_size()
    for kind, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "Untyped": torch.uint8,
    }.items()
}


class _Kind:
    __slots__ = ("itemsize",)

    def __init__(self, itemsize: int):
        self.itemsize = itemsize


class _Storage:
    __slots__ = ("count",)

    def __init__(self, count: int):
        self.count = count


class _Tensor:
    __slots__ = ()

    def __setstate__(self, state):
        raise WeightsError("the pickle changes a tensor after it was made")


class _Value:
    """A dtype or a device: nothing to check."""

    __slots__ = ()


class _DryRun:
    """Goes through a torch file's pickle with stand-ins and checks each tensor against its storage's size."""

    def __init__(self, where: str, size: int):
        self.where = where
        numbers = NumpyReader(size)
        self.storages: dict[str, int] = {}  # key -> bytes
        self.known = common_globals() | {
            ("torch._utils", "_rebuild_tensor_v2"): Stand(self.tensor),
            ("torch._utils", "_rebuild_tensor"): Stand(self.tensor),
            ("torch._utils", "_rebuild_parameter"): Stand(self.parameter),
            ("torch", "Size"): Stand(self.size),
            ("torch", "device"): Stand(lambda *_: _Value()),
            ("_codecs", "encode"): Stand(numbers.encode),
            ("numpy", "dtype"): Stand(Dtype),
        }
        for module in NUMPY_CORES:
            self.known[f"{module}.multiarray", "scalar"] = Stand(numbers.scalar)
        for module in ("torch", "torch.cuda", "torch.storage"):
            for name, itemsize in _STORAGES.items():
                self.known[module, name] = _Kind(itemsize)
        for name in dir(torch):
            if isinstance(getattr(torch, name), torch.dtype):
                self.known["torch", name] = _Value()

    def storage(self, pid):
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise WeightsError("a storage in it is described in an unknown way")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(kind, _Kind) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise WeightsError("a storage in it is described in an unknown way")
        if len(pid) == 6 and pid[5] is not None:
            raise WeightsError("a storage in it is a view of another, a form that torch gave up in 2018")
        size = count * kind.itemsize
        if self.storages.setdefault(key, size) != size:
            raise WeightsError(f"the storage {key} is described twice, with different sizes")
        return _Storage(count)

    def tensor(self, storage, offset, size, stride, *_):
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or len(size) != len(stride):
            raise WeightsError("a tensor in it is described in an unknown way")
        if any(type(number) is not int or number < 0 for number in numbers):
            raise WeightsError("a tensor in it has a size or stride that is no count")
        elements = 1
        for length in size:
            elements *= length
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if elements and (last >= storage.count or elements > storage.count):
            raise WeightsError(
                f"a tensor of shape {tuple(size)} reaches beyond its data ({storage.count} numbers in the file)"
            )
        return _Tensor()

    def parameter(self, data, *_):
        if not isinstance(data, _Tensor):
            raise WeightsError("a parameter in it is no tensor")
        return data

    def size(self, lengths=()):
        if not isinstance(lengths, list | tuple) or any(type(length) is not int for length in lengths):
            raise WeightsError("a size in it holds something other than counts")
        return tuple(lengths)

    def read(self, stream):
        return GuardedUnpickler(stream, self.where, self.known, storage=self.storage, advice=_advice).read()


def _advice(module: str, name: str) -> str:
    if module.startswith("numpy"):
        return "It holds NumPy arrays; where the file is yours, save model.state_dict() alone."
    return ""


def _numpy_scalars(size: int) -> list:
    """What torch.load may find of NumPy beside its own list: single numbers, as in ``best_prec1``.

    Stand-ins under NumPy's names, by which torch.load looks them up; NumPy's own functions are not called.
    """

    def named(module, name):
        def scalar(dtype, data):
            return numbers.scalar(dtype, data)

        scalar.__module__, scalar.__name__, scalar.__qualname__ = module, name, name
        return scalar

    numbers = NumpyReader(size)
    dtype = type("dtype", (Dtype,), {"__module__": "numpy", "__slots__": ()})
    return [dtype, *(named(f"{module}.multiarray", "scalar") for module in NUMPY_CORES)]


def check_zip(path: Path) -> None:
    """Checks a zip file of torch.save: its kind, its sizes, every checksum, every tensor's bounds.

    Raises:
        WeightsError: the file is cut or damaged, a TorchScript archive, packed (a zip bomb), or its pickle
            asks for anything but tensors and plain values.
    """
    where = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, where, os.path.getsize(path))
    except WeightsError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{where}: the file is cut short or damaged ({error}); fetch it again") from None


def _check_archive(archive: zipfile.ZipFile, where: str, size: int) -> None:
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise WeightsError(f"{where}: refused, the archive has two entries of one name")
    folders = {name.split("/")[0] for name in names}
    inside = {name.split("/", 1)[1] for name in names if "/" in name}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise WeightsError(
            f"{where}: this is a TorchScript archive, which holds a program. Where it is yours, load it in "
            "Python and save its state_dict()"
        )
    if len(folders) != 1 or "data.pkl" not in inside:
        raise WeightsError(f"{where}: a zip file, but not one of torch.save (it has no data.pkl in a single folder)")
    folder = folders.pop()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(f"{where}: refused, its entries are packed; torch.save never packs them")
    if sum(entry.file_size for entry in entries) > size or any(e.file_size != e.compress_size for e in entries):
        raise WeightsError(f"{where}: refused, its entries claim more bytes than the file has")
    broken = archive.testzip()
    if broken:
        raise WeightsError(f"{where}: damaged, the checksum of {broken} does not match; fetch the file again")
    pickled = archive.read(f"{folder}/data.pkl")
    stream = io.BytesIO(pickled)
    if walk(stream, where, persistent=True) != len(pickled):
        raise WeightsError(f"{where}: damaged, bytes follow the end of its pickle")
    run = _DryRun(where, size)
    run.read(io.BytesIO(pickled))
    for key, needed in run.storages.items():
        name = f"data/{key}"
        there = archive.getinfo(f"{folder}/{name}").file_size if name in inside else None
        if there != needed:
            raise WeightsError(f"{where}: damaged, {name} should have {needed} bytes and has {there or 'no entry'}")


def check_legacy(path: Path) -> None:
    """Checks a file of the form before torch 1.6: five pickles, then the storages one behind the other.

    This form has no checksum: a changed bit inside a tensor cannot be seen here (the name's hash may tell, see
    safe_load).

    Raises:
        WeightsError: as check_zip.
    """
    where, size = str(path), os.path.getsize(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        run = _DryRun(where, size)
        values = []
        for _ in range(5):  # magic number, protocol, system, the object, the storages' keys
            start = data.tell()
            end = walk(data, where, persistent=True)
            values.append(run.read(io.BytesIO(data[start:end])))
            data.seek(end)
        keys = values[4]
        if not isinstance(keys, list) or set(map(str, keys)) != set(run.storages) or len(keys) != len(run.storages):
            raise WeightsError(f"{where}: damaged, its list of storages does not match its tensors")
        position = data.tell()
        total = sum(run.storages.values()) + 8 * len(keys)
        if position + total != size:
            raise WeightsError(
                f"{where}: its tensors need {position + total:,} bytes and the file has {size:,}; "
                "it is cut short or damaged, fetch it again"
            )


def read_torch_file(path: Path):
    """The content of a .pth file: plain containers, tensors on the CPU.

    Raises:
        WeightsError: the checks of check_zip or check_legacy, or what torch.load itself refuses.
    """
    with open(path, "rb") as file:
        legacy = file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC
    (check_legacy if legacy else check_zip)(path)
    # Namespace only carries values.
    allowed = [argparse.Namespace, *_numpy_scalars(os.path.getsize(path))]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is refused above or below
            # Files written by Python 2 hold bytes as text, of which latin1 alone takes every value.
            content = torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")
    except Exception as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        raise WeightsError(f"{path}: torch.load(weights_only=True) refuses it: {reason}") from None

    def leaf(value, _):
        return vars(value) if isinstance(value, argparse.Namespace) else value

    return plain(content, str(path), leaf)
