"""Files as accidents and other programs leave them: bytes and JSON values changed at random places."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

_BLOCK = 512  # bytes, what a disk loses at a time
_ENDS = 1024  # bytes at either end of a file, where its structure stands

# In the place of any value: other types, numbers out of range, text that is hard to write.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, -0.0, 96.0, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"),
    float("-inf"), "", " ", "0", "1", "text", "NaN", "é", "e\u0301", "椅子", "a\nb", "a\0b", "\ud800", "../x",
    "x" * 300, [], [1], [None], [[]], [0, 0, 5], [0, 0, 5, 5], [1e308] * 4, ["1", "1", "5", "5"], {}, {"id": 1},
    {"counts": []}, {"size": [64, 64], "counts": [10, 20]}, {"size": [64, 64], "counts": "xyz"},
    {"size": [10**9, 10**9], "counts": [1]},
)  # fmt: skip


def mutate_bytes(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """A file's content with one accident, and what it was: "flipped" (one to eight bits), "cut", "overwritten" (zeros,
    ones or noise), "inserted" or "appended"."""
    kind = str(random.choice(["flipped"] * 4 + ["cut"] * 3 + ["overwritten"] * 2 + ["inserted", "appended"]))
    if kind == "cut":
        return data[: _place(data, random)], kind
    if kind == "appended":
        return data + random.bytes(int(random.integers(1, _BLOCK))), kind
    changed = bytearray(data)
    if kind == "flipped":
        for _ in range(int(random.integers(1, 9))):
            changed[_place(data, random)] ^= 1 << int(random.integers(8))
    else:
        size = int(random.choice([1, 2, 4, 8, _BLOCK]))
        block = [bytes(size), b"\xff" * size, random.bytes(size)][int(random.integers(3))]
        place = _place(data, random)
        changed[place : place + (size if kind == "overwritten" else 0)] = block
    return bytes(changed), kind


def _place(data: bytes, random: np.random.Generator) -> int:
    """An index; the ends, with headers and tables, come up more often than their share."""
    where = random.random()
    if where < 0.25:
        return int(random.integers(min(len(data), _ENDS)))
    if where < 0.4:
        return len(data) - 1 - int(random.integers(min(len(data), _ENDS)))
    return int(random.integers(len(data)))


def mutate_json(value: Any, random: np.random.Generator) -> bytes:
    """The text of a JSON value with one to three changes: values of other types, keys and records that are missing,
    doubled, renamed or exchanged. One text in eight has an accident in its bytes, or another encoding."""
    for _ in range(int(random.integers(1, 4))):
        holders = list(_holders(value))
        if holders:
            _CHANGES[int(random.integers(len(_CHANGES)))](holders, random)
    text = json.dumps(value, ensure_ascii=bool(random.integers(2)))
    where = random.random()
    encoding = str(random.choice(["utf-16", "utf-8-sig", "latin-1", "gbk"])) if where < 0.06 else "utf-8"
    data = text.encode(encoding, "replace" if where < 0.06 else "surrogatepass")
    return mutate_bytes(data, random)[0] if where > 0.94 else data


def _holders(value: Any):
    """Every dictionary and list in a value that has something in it, itself included."""
    if isinstance(value, dict | list) and value:
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


def _pick(holders: list, random: np.random.Generator) -> tuple[Any, Any]:
    holder = holders[int(random.integers(len(holders)))]
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    return holder, keys[int(random.integers(len(keys)))]


def _replace(holders, random):
    holder, key = _pick(holders, random)
    holder[key] = copy.deepcopy(VALUES[int(random.integers(len(VALUES)))])


def _remove(holders, random):
    holder, key = _pick(holders, random)
    del holder[key]


def _as_text(holders, random):
    holder, key = _pick(holders, random)
    holder[key] = str(holder[key])


def _as_float(holders, random):
    holder, key = _pick(holders, random)
    if isinstance(holder[key], int):
        holder[key] = float(holder[key]) * (1 if random.integers(2) else 1 / 64)


def _negative(holders, random):
    holder, key = _pick(holders, random)
    if isinstance(holder[key], int | float):
        holder[key] = -holder[key]


def _double(holders, random):
    lists = [holder for holder in holders if isinstance(holder, list)]
    if lists:
        holder, key = _pick(lists, random)
        holder.insert(key, copy.deepcopy(holder[key]))


def _exchange(holders, random):
    """Two values of one key, ids say, of two records; or of two keys of one record."""
    first, key = _pick(holders, random)
    alike = [holder for holder in holders if isinstance(holder, dict) and isinstance(first, dict) and key in holder]
    second, other = (alike[int(random.integers(len(alike)))], key) if alike else _pick([first], random)
    one, two = copy.deepcopy((first[key], second[other]))  # which may lie in each other
    first[key], second[other] = two, one


def _rename(holders, random):
    holder, key = _pick(holders, random)
    if isinstance(holder, dict):
        holder[str(random.choice([key.upper(), f"{key} ", key[:-1], "id", "name"]))] = holder.pop(key)


def _everywhere(holders, random):
    """One key of all records gets the same value, or is made a text or a number."""
    holder, key = _pick(holders, random)
    value, how = VALUES[int(random.integers(len(VALUES)))], int(random.integers(3))
    for record in holders if isinstance(holder, dict) else ():
        if isinstance(record, dict) and key in record:
            old = record[key]
            record[key] = [str(old), copy.deepcopy(value), float(old) if isinstance(old, int) else old][how]


_CHANGES: list[Callable] = [
    _replace, _replace, _replace, _remove, _as_text, _as_float, _negative, _double, _exchange, _rename, _everywhere,
]  # fmt: skip
