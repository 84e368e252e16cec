"""SOLVER.IMS_PER_BATCH auto, as a config holds it until a run has found the number: with the number that it stands in
place of, which the learning rate is for."""

from __future__ import annotations

import re

KEY = "SOLVER.IMS_PER_BATCH"
_AUTO = re.compile(r"auto(?: ([1-9]\d*))?")


def is_automatic(value) -> bool:
    """Whether a value is ``auto``, or ``auto N``."""
    return isinstance(value, str) and _AUTO.fullmatch(value) is not None


def over(value, before):
    """A value as it is put over another one: ``auto`` over N or ``auto N`` is ``auto N``, any other is what it is."""
    if value == "auto" and (type(before) is int or is_automatic(before)) and (number := reference_batch(before)):
        return f"auto {number}"
    return value


def reference_batch(value: int | str) -> int:
    """N, of N or ``auto N``; 0 of ``auto``, which was put over nothing yet."""
    return value if isinstance(value, int) else int(_AUTO.fullmatch(value)[1] or 0)
