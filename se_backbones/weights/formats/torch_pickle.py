"""What a torch file's pickle may ask for: stand-ins for what torch's own safe loader allows, each checked.

The list is that of ``torch/_weights_only_unpickler.py`` in torch 2.14 (``_get_allowed_globals``), less what no weights
have and what could not be checked before it is made: nested tensors, wrapped subclasses, tensors of another device
(``_rebuild_nested_tensor``, ``_rebuild_wrapper_subclass``, ``_rebuild_device_tensor_from_…``) and the tensor classes of
before torch 0.2.
"""

from __future__ import annotations

import torch

from se_backbones.errors import WeightsError
from se_backbones.weights.formats.numpy_pickle import NUMPY_CORES, Dtype, NumpyReader
from se_backbones.weights.formats.pickle_guard import GuardedUnpickler, Stand, common_globals

# What a storage's type says of its numbers. Untyped ones are counted in bytes, and the tensor says what they are.
_STORAGES = {
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
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "QInt8": torch.qint8,
    "QInt32": torch.qint32,
    "QUInt8": torch.quint8,
    "QUInt4x2": torch.quint4x2,
    "QUInt2x4": torch.quint2x4,
    "Untyped": torch.uint8,
}
_PACKED = {torch.quint4x2: 2, torch.quint2x4: 4}  # numbers a byte; the storage counts the bytes
_SCHEMES = (
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)


class _Kind:
    """A storage's type."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


class _Storage:
    __slots__ = ("dtype", "size")

    def __init__(self, dtype: torch.dtype, size: int):
        self.dtype, self.size = dtype, size


class _Tensor:
    __slots__ = ()

    def __setstate__(self, state):
        raise WeightsError("the pickle changes a tensor after it was made")


class _Value:
    """A device, a layout, a scheme, a class: nothing to check."""

    __slots__ = ()


class _Type(_Value):
    """A type of numbers."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


class DryRun:
    """Goes through a torch file's pickle with stand-ins and checks each tensor against its storage's size.

    Args:
        where: the file, for messages.
        size: of the file in bytes.

    Attributes:
        storages: the key of each storage that was asked for -> its bytes.
    """

    def __init__(self, where: str, size: int):
        self.where = where
        self.storages: dict[str, int] = {}
        self._repeated = size  # how many numbers all tensors together may have that stand for fewer in the file
        numbers = NumpyReader(size)
        rebuild = {
            "_rebuild_tensor": self._tensor,
            "_rebuild_tensor_v2": self._tensor,
            "_rebuild_tensor_v3": self._tensor_of_type,
            "_rebuild_qtensor": self._quantised,
            "_rebuild_sparse_tensor": self._sparse,
            "_rebuild_meta_tensor_no_storage": self._without_storage,
            "_rebuild_parameter": self._parameter,
            "_rebuild_parameter_with_state": self._parameter,
        }
        rebuild = {name: Stand(call) for name, call in rebuild.items()}
        self._makers = tuple(rebuild.values())
        self._tensor_classes = (_Value(), _Value())
        self.known = common_globals(numbers.budget) | {
            ("torch._tensor", "_rebuild_from_type_v2"): Stand(self._with_attributes),
            ("torch", "Tensor"): self._tensor_classes[0],
            ("torch.nn.parameter", "Parameter"): self._tensor_classes[1],
            ("torch", "Size"): Stand(_size),
            ("torch", "device"): Stand(lambda *_: _Value()),
            ("torch.serialization", "_get_layout"): Stand(lambda *_: _Value()),
            ("numpy", "dtype"): Stand(Dtype),
        }
        self.known |= {("torch._utils", name): stand for name, stand in rebuild.items()}
        self.known |= {("torch", name): _Value() for name in _SCHEMES}
        for module in NUMPY_CORES:
            self.known[f"{module}.multiarray", "scalar"] = Stand(numbers.scalar)
        for module in ("torch", "torch.cuda", "torch.storage"):
            for name, dtype in _STORAGES.items():
                self.known[module, f"{name}Storage"] = _Kind(dtype)
        for name in dir(torch):
            if isinstance(dtype := getattr(torch, name), torch.dtype):
                self.known["torch", name] = _Type(dtype)

    def read(self, stream):
        """What the pickle holds, with stand-ins. Raises WeightsError, as ``GuardedUnpickler.read``."""
        return GuardedUnpickler(stream, self.where, self.known, storage=self._storage, advice=_advice).read()

    def _storage(self, pid):
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise WeightsError("a storage in it is described in an unknown way")
        kind, key, count = pid[1], pid[2], pid[4]
        if not isinstance(kind, _Kind) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise WeightsError("a storage in it is described in an unknown way")
        if len(pid) == 6 and pid[5] is not None:
            raise WeightsError("a storage in it is a view of another, a form that torch gave up in 2018")
        size = count * kind.dtype.itemsize
        if self.storages.setdefault(key, size) != size:
            raise WeightsError(f"the storage {key} is described twice, with different sizes")
        return _Storage(kind.dtype, size)

    def _tensor(self, storage, offset, size, stride, *_):
        if not isinstance(storage, _Storage):
            raise WeightsError("a tensor in it is described in an unknown way")
        return self._in_storage(storage, storage.dtype, offset, size, stride)

    def _tensor_of_type(self, storage, offset, size, stride, _grad, _hooks, kind, *_):
        if not isinstance(storage, _Storage) or not isinstance(kind, _Type):
            raise WeightsError("a tensor in it is described in an unknown way")
        return self._in_storage(storage, kind.dtype, offset, size, stride)

    def _in_storage(self, storage, dtype, offset, size, stride):
        elements = _elements(size, stride, offset)
        held = storage.size // dtype.itemsize * _PACKED.get(dtype, 1)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if elements > held:  # an expanded tensor, which repeats its numbers; somebody may yet write them out
            self._repeated -= elements
        if elements and (last >= held or self._repeated < 0):
            raise WeightsError(f"a tensor of shape {tuple(size)} reaches beyond its data ({held} numbers in the file)")
        return _Tensor()

    def _quantised(self, storage, offset, size, stride, parameters, *_):
        if not isinstance(parameters, tuple) or len(parameters) not in (3, 4):
            raise WeightsError("a quantised tensor in it is described in an unknown way")
        numbers = 1
        for length in size:
            numbers *= length
        if isinstance(storage, _Storage) and numbers > storage.size * _PACKED.get(storage.dtype, 1):
            raise WeightsError("a quantised tensor in it is larger than its data")  # torch makes it before it looks
        return self._tensor(storage, offset, size, stride)

    def _sparse(self, layout, parts):
        # torch compares the indices with the size itself.
        if not isinstance(layout, _Value) or not isinstance(parts, tuple) or len(parts) not in (3, 4):
            raise WeightsError("a sparse tensor in it is described in an unknown way")
        return _Tensor()

    def _without_storage(self, kind, size, stride, *_):
        _elements(size, stride)
        return _Tensor()

    def _parameter(self, data, _grad=None, _hooks=None, state=None):
        if not isinstance(data, _Tensor):
            raise WeightsError("a parameter in it is no tensor")
        _check_attributes(state)
        return data

    def _with_attributes(self, make, kind, arguments, state):
        if make not in self._makers or kind not in self._tensor_classes or not isinstance(arguments, tuple):
            raise WeightsError("a tensor in it is of a class of its own")
        _check_attributes(state)
        return make(*arguments)


def _size(lengths=()):
    if not isinstance(lengths, list | tuple) or any(type(length) is not int for length in lengths):
        raise WeightsError("a size in it holds something other than counts")
    return tuple(lengths)


def _elements(size, stride, offset=0) -> int:
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise WeightsError("a tensor in it is described in an unknown way")
    if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)):
        raise WeightsError("a tensor in it has a size or stride that is no count")
    elements = 1
    for length in size:
        elements *= length
    return elements


def _check_attributes(state) -> None:
    """Attributes that a script gave a tensor (``buffer.persistent``); none that a tensor has by itself."""
    for part in state if isinstance(state, tuple) else (state,):
        if part is None:
            continue
        if not isinstance(part, dict) or not all(isinstance(name, str) for name in part):
            raise WeightsError("a tensor in it has attributes in an unknown form")
        if taken := [name for name in part if hasattr(torch.nn.Parameter, name)]:
            raise WeightsError(f"the pickle changes {taken[0]!r} of a tensor")


def _advice(module: str, name: str) -> str:
    if module.startswith("numpy"):
        return "It holds NumPy arrays; where the file is yours, save model.state_dict() alone."
    return ""
