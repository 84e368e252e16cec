"""What the values of config keys may be: rules, and their check."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from engine.errors import UserError


class Rule(NamedTuple):
    """What a value must be.

    Attributes:
        says: how to go on after "must be".
        holds: whether a value is; it may raise TypeError for one of another type.
    """

    says: str
    holds: Callable[[Any], bool]


def one_of(names: Iterable[str]) -> Rule:
    """A text, or a number, out of a few."""
    names = list(names)
    says = ", ".join(map(_shown, names[:-1])) + " or " * (len(names) > 1) + _shown(names[-1])
    return Rule(says, lambda value: value in names)


def _shown(name) -> str:
    return str(name) if name != "" else "empty"


def number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """A finite number in low..high.

    Args:
        above, below: without ``low``, without ``high``.
    """
    if low == -math.inf and high == math.inf:
        says = "finite"
    elif high == math.inf:
        says = f"above {low:g}, and finite" if above else f"{low:g} or more, and finite"
    else:
        ends = [f"above {low:g}"] * above + [f"below {high:g}"] * below
        says = f"in {low:g}..{high:g}" + "".join(f", {end}" for end in ends)

    def holds(value) -> bool:
        inside = low < value if above else low <= value
        return inside and (value < high if below or high == math.inf else value <= high)

    return Rule(says, holds)


def every(
    rule: Rule, count: int | None = None, *, least: int = 0, ascending: bool = False, what: str = "values"
) -> Rule:
    """A list of which each is what ``rule`` says.

    Args:
        count: how many there must be; without it, ``least`` at least.
        ascending: each above the one before it.
    """
    many = f"{count} {what}" if count is not None else f"a list of {what}" + (f", {least} at least" if least else "")
    order = " in ascending order" if ascending else ""

    def holds(values) -> bool:
        if not isinstance(values, list | tuple) or len(values) < least or count not in (None, len(values)):
            return False
        return all(map(rule.holds, values)) and (
            not ascending or all(a < b for a, b in zip(values, values[1:], strict=False))
        )

    return Rule(f"{many}{order}, each {rule.says}", holds)


def or_none(rule: Rule) -> Rule:
    """None, or what ``rule`` says."""
    return Rule(f"None, or {rule.says}", lambda value: value is None or rule.holds(value))


TEXT = Rule("a text", lambda value: isinstance(value, str))
SHARE = number(0, 1)
COUNT = number(1)  # of what there must be one
NATURAL = number(0)  # of what there may be none
POSITIVE = number(0, above=True)
NOT_NEGATIVE = number(0)
CLASS_WEIGHTS = Rule(
    "empty, balanced, or a list of numbers of 0 or more, one for each class and not all 0",
    lambda given: list(given) == ["balanced"] or not given or (all(map(NOT_NEGATIVE.holds, given)) and sum(given) > 0),
)


def check_rules(cfg: CfgNode, rules: Mapping[str, Rule]) -> None:
    """Raises UserError with every key of a config whose value its rule does not let pass. Keys that the config has not
    are passed over: another version of a library has them."""
    wrong = []
    for key, rule in rules.items():
        value = cfg
        for part in key.split("."):
            value = value.get(part, _ABSENT) if isinstance(value, CfgNode) else _ABSENT
        if value is not _ABSENT and not _holds(rule, value):
            shown = list(value) if isinstance(value, tuple) else value
            wrong.append(f"{key} must be {rule.says}; got {shown!r}")
    if wrong:
        raise UserError("\n  ".join(wrong))


_ABSENT = object()


def _holds(rule: Rule, value) -> bool:
    try:
        return bool(rule.holds(value))
    except (TypeError, ValueError):
        return False
