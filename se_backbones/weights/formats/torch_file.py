"""Files of torch.save, zip form and older one: checked whole, then read by torch.load(weights_only=True).

torch.load alone is not enough: 2.14 unfolds packed entries to any size, makes a view of 10¹² numbers of a storage of
four, and a key of 300,000 nested tuples ends the process. Nor is torch.serialization.get_unsafe_globals_in_checkpoint
for the names of what is refused: it reads neither the older form nor pickles of protocol 4.
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
from se_backbones.weights.formats.pickle_guard import plain, walk
from se_backbones.weights.formats.torch_pickle import DryRun

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began a file until version 1.5


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
    if not any(entry.CRC for entry in entries):  # torch.serialization.set_crc32_options(False): no checksums at all
        for entry in entries:
            entry.CRC = None
    broken = archive.testzip()
    if broken:
        raise WeightsError(f"{where}: damaged, the checksum of {broken} does not match; fetch the file again")
    pickled = archive.read(f"{folder}/data.pkl")
    stream = io.BytesIO(pickled)
    if walk(stream, where, persistent=True) != len(pickled):
        raise WeightsError(f"{where}: damaged, bytes follow the end of its pickle")
    run = DryRun(where, size)
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
        run = DryRun(where, size)
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
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is refused above or below
            # The file and not its path, whose suffix torch.load would go by. Files written by Python 2 hold bytes as
            # text, of which latin1 alone takes every value.
            content = torch.load(file, map_location="cpu", weights_only=True, encoding="latin1")
    except Exception as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        raise WeightsError(f"{path}: torch.load(weights_only=True) refuses it: {reason}") from None

    def leaf(value, _):
        return vars(value) if isinstance(value, argparse.Namespace) else value

    return plain(content, str(path), leaf)
