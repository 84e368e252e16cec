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


def common_globals() -> dict[tuple[str, str], object]:
    """The stand-ins that both kinds of pickle need, fresh at each call: no file can leave anything behind."""
    namespace = type("Namespace", (Attributes,), {"__slots__": ()})
    return {
        ("collections", "OrderedDict"): Stand(lambda pairs=(): Names(pairs)),
        ("builtins", "set"): Stand(set),
        ("__builtin__", "set"): Stand(set),
        ("argparse", "Namespace"): namespace,
    }


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
    if isinstance(key, str | int | float | bool | bytes | type(None)):
        return key
    raise WeightsError(f"{where}: refused, a dictionary in it has a {type(key).__name__} as a key")
