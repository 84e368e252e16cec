"""Reads a pickle without running anything: a name in it is looked up in a short list of harmless stand-ins.

A pickle is a small program whose GLOBAL instruction imports any function and whose REDUCE instruction calls
it. Here GLOBAL finds only what the caller lists, so there is nothing harmful to call; and the instructions
are walked once beforehand, which finds a cut file, a length that the file does not have, a memo index
that would make the unpickler take gigabytes, and nesting that would overflow the interpreter's stack.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping

import torch

from se_backbones.errors import WeightsError

MAX_INSTRUCTIONS = 20_000_000
MAX_DEPTH = 60

# What the pickler writes for plain values, tensors and arrays in protocols 0 to 5. Left out on purpose: INST,
# OBJ and EXT (other ways to name a class), NEWOBJ_EX, and the out-of-band buffers, which no file can hold.
_INSTRUCTIONS = frozenset(
    """PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4
    FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND
    APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET GET BINGET LONG_BINGET PUT BINPUT
    LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ""".split()
)

_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_NESTS = frozenset("TUPLE TUPLE1 TUPLE2 TUPLE3 FROZENSET".split())
_CHANGES = frozenset("APPEND APPENDS SETITEM SETITEMS ADDITEMS BUILD".split())


class Stand:
    """A callable in the place of a global. It has no attributes to set, so a BUILD aimed at it fails."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args):
        return self._call(*args)

    def __setattr__(self, name, value):
        raise WeightsError("the pickle tries to change a function")


class Names(dict):
    """A stand-in for OrderedDict: holds the items, ignores the state that a module's state_dict carries."""

    def __setstate__(self, state):
        if not isinstance(state, dict) or set(state) - {"_metadata"}:
            raise WeightsError("the pickle gives a dictionary attributes")


class Attributes:
    """A stand-in for argparse.Namespace, which many training scripts save beside the weights."""

    __slots__ = ("values",)

    def __setstate__(self, state):
        self.values = dict(state) if isinstance(state, dict) else {}


class Budget:
    """How much a pickle may still unfold: what it names over and over is copied each time.

    Args:
        size: of the file in bytes. A value takes one or more of them, and latin-1 in UTF-8 at most twice its length.
    """

    def __init__(self, size: int):
        self._values, self._bytes = size, 2 * size

    def values(self, container):
        """The container, counted."""
        self._values -= len(container)
        if self._values < 0:
            raise WeightsError("it would unfold into more values than the file holds")
        return container

    def encoded(self, text, encoding="utf-8") -> bytes:
        """What ``codecs.encode`` gives of a text in latin-1, in which pickles of protocol 2 have their bytes."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise WeightsError("it encodes text in an unknown way")
        return self._bytes_of(text).encode("latin1")

    def bytearray(self, data=b"", *encoding) -> bytearray:
        """What ``bytearray`` gives of bytes or a text; not of a number, which would be a length."""
        if isinstance(data, str):
            data = self.encoded(data, *encoding)
        if not isinstance(data, bytes | bytearray):
            raise WeightsError("it makes bytes in an unknown way")
        return bytearray(self._bytes_of(data))

    def _bytes_of(self, data):
        self._bytes -= len(data)
        if self._bytes < 0:
            raise WeightsError("it would unfold into more bytes than the file holds")
        return data


def common_globals(budget: Budget) -> dict[tuple[str, str], object]:
    """The stand-ins that both kinds of pickle need, fresh at each call: no file can leave anything behind."""
    namespace = type("Namespace", (Attributes,), {"__slots__": ()})
    known = {
        ("collections", "OrderedDict"): Stand(lambda pairs=(): Names(budget.values(pairs))),
        ("collections", "Counter"): Stand(lambda counts=(): Names(budget.values(_mapping(counts)))),
        ("_codecs", "encode"): Stand(budget.encoded),
        ("argparse", "Namespace"): namespace,
    }
    for module in ("builtins", "__builtin__"):  # the second is Python 2's name, which protocol 2 writes
        known[module, "set"] = Stand(lambda values=(): set(budget.values(values)))
        known[module, "bytearray"] = Stand(budget.bytearray)
        known[module, "complex"] = Stand(_complex)
    return known


def _mapping(counts):
    if counts and not isinstance(counts, dict):
        raise WeightsError("it counts something in an unknown way")
    return counts


def _complex(real=0.0, imaginary=0.0):
    if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
        raise WeightsError("a complex number in it is made of something else")
    return complex(real, imaginary)


def walk(stream: io.BufferedIOBase, where: str, persistent: bool = False) -> int:
    """Walks the instructions of the pickle at the stream's position.

    Args:
        stream: has read, readline, tell.
        where: the file and the part of it, for messages.
        persistent: whether persistent ids (a torch file's storages) may occur.

    Returns:
        the position behind the pickle.

    Raises:
        WeightsError: it is cut, damaged, uses an instruction that no weights need, or nests without end.
    """
    count, nesting = 0, _Nesting()
    try:
        for instruction, argument, _ in pickletools.genops(stream):
            count += 1
            name = instruction.name
            if name not in _INSTRUCTIONS and not (persistent and name == "BINPERSID"):
                raise WeightsError(f"{where}: refused, its pickle uses the instruction {name}, which no weights need")
            if name in _PUTS and argument > count:
                raise WeightsError(f"{where}: refused, its pickle has a memo index of {argument}")
            if count > MAX_INSTRUCTIONS:
                raise WeightsError(f"{where}: refused, its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            if nesting.after(instruction, argument) > MAX_DEPTH:
                raise WeightsError(f"{where}: refused, its values are nested too deep")
    except WeightsError:
        raise
    except Exception as error:  # pickletools raises ValueError, IndexError, UnicodeDecodeError, struct.error …
        raise WeightsError(f"{where}: the pickle in it is cut short or damaged ({error})") from None
    return stream.tell()


class _Nesting:
    """How deep tuples lie in tuples, followed along the instructions without making any of them.

    A tuple as a dictionary's key is hashed, and Python hashes a tuple in a tuple by recursion without a limit: a
    hundred thousand of them, in a file of as many bytes, end the process. Lists and dictionaries have no hash, and no
    stand-in makes a tuple of what it is given; so tuples alone need following. (``plain`` limits the depth of all.)
    """

    def __init__(self):
        self._stack: list[int | None] = []  # of each value the depth; None is a mark
        self._memo: dict[int, int | None] = {}

    def after(self, instruction, argument) -> int:
        """The depth of what an instruction leaves on the stack. IndexError, KeyError: it takes what is not there."""
        name, stack = instruction.name, self._stack
        if name in _PUTS:
            self._memo[argument] = stack[-1]
            return 0
        if name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
            return 0
        if name in _GETS:
            stack.append(self._memo[argument])
            return 0
        if name == "MARK":
            stack.append(None)
            return 0
        if name == "POP":
            stack.pop()
            return 0
        taken = [0]
        for kind in reversed(instruction.stack_before):
            if kind is pickletools.markobject:
                while (depth := stack.pop()) is not None:
                    taken.append(depth)
            elif kind is not pickletools.stackslice:
                taken.append(stack.pop() or 0)
        if name in _CHANGES:
            depth = taken[-1]  # the value changed, which lies below those that go into it
        else:
            depth = 1 + max(taken) if name in _NESTS else 0
        stack.extend(depth for _ in instruction.stack_after)
        return depth


class GuardedUnpickler(pickle.Unpickler):
    """An unpickler that finds only ``known``; persistent ids go to ``storage``, or are refused."""

    def __init__(
        self,
        stream,
        where: str,
        known: Mapping[tuple[str, str], object],
        storage: Callable | None = None,
        advice: Callable[[str, str], str] = lambda module, name: "",
    ):
        super().__init__(stream, encoding="latin1")
        self._where, self._known, self._storage, self._advice = where, known, storage, advice

    def find_class(self, module, name):
        if (module, name) in self._known:
            return self._known[module, name]
        advice = self._advice(module, name) or (
            "Weights need tensors, arrays, numbers and text alone. If the file is yours, save "
            "model.state_dict(), best as .safetensors; if not, do not open it."
        )
        raise WeightsError(
            f"{self._where}: refused, it asks for {module}.{name}, and loading must not run code. {advice}"
        )

    def persistent_load(self, pid):
        if self._storage is None:
            raise WeightsError(f"{self._where}: refused, its pickle refers to data outside it")
        return self._storage(pid)

    def read(self):
        """The unpickled value.

        Raises:
            WeightsError: whatever goes wrong; nothing has been run.
        """
        try:
            return self.load()
        except WeightsError as error:
            message = str(error)
            raise WeightsError(message if self._where in message else f"{self._where}: refused, {message}") from None
        except MemoryError:
            raise WeightsError(f"{self._where}: it needs more memory than there is") from None
        except Exception as error:
            raise WeightsError(
                f"{self._where}: the pickle in it is damaged ({type(error).__name__}: {error})"
            ) from None


def plain(value, where: str, leaf: Callable = lambda leaf_value, path: leaf_value):
    """Copies nested containers into plain dict, list, tuple and set; every other value goes through ``leaf``.

    A crafted pickle can nest without end, contain itself, or name one list many times at each level: both the
    depth and the number of values are limited.
    """
    budget = [MAX_INSTRUCTIONS]

    def copy(item, path, depth):
        budget[0] -= 1
        if depth > MAX_DEPTH or budget[0] < 0:
            raise WeightsError(f"{where}: refused, its values are nested too deep at {path[:80] or 'the top'}")
        if isinstance(item, dict):
            return {
                _key(key, where): copy(element, f"{path}.{key}" if path else str(key), depth + 1)
                for key, element in dict.items(item)
            }
        if isinstance(item, list | tuple | set | frozenset):
            kind = next(kind for kind in (list, tuple, set, frozenset) if isinstance(item, kind))
            return kind(copy(element, f"{path}[{i}]", depth + 1) for i, element in enumerate(item))
        if isinstance(item, Attributes):
            return copy(getattr(item, "values", {}), path, depth + 1)
        return leaf(item, path)

    return copy(value, "", 0)


def _key(key, where):
    if isinstance(key, str | int | float | complex | bytes | type(None) | torch.dtype | torch.device):
        return key
    if isinstance(key, tuple):  # not nested without end: ``walk`` has seen to it
        return tuple(_key(part, where) for part in key)
    raise WeightsError(f"{where}: refused, a dictionary in it has a {type(key).__name__} as a key")
