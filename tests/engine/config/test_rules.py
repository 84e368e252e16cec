"""Rules of values: what each lets pass, and that all that is wrong is said at once, by key, with what is allowed."""

import math

import pytest
from fvcore.common.config import CfgNode

from engine.config.rules import COUNT, SHARE, TEXT, check_rules, every, number, one_of, or_none
from engine.errors import UserError

CASES = [
    (one_of(("a", "")), ["a", ""], ["b", 1, None, ["a"]]),
    (number(0), [0, 7.5], [-1e-9, math.inf, math.nan, "1", None]),
    (number(0, above=True), [1e-9, 3], [0, -1, math.inf, math.nan]),
    (number(0, 1, below=True), [0, 0.99], [1, -0.1, math.nan]),
    (SHARE, [0, 1], [1.01, -0.01, math.nan, math.inf]),
    (every(COUNT), [[], [1, 2], (3,)], [[0], ["a"], 1, None, [[1]]]),
    (every(COUNT, 2), [[1, 2]], [[1], [1, 2, 3], []]),
    (every(COUNT, least=1, ascending=True), [[1], [1, 3]], [[], [2, 1], [1, 1]]),
    (or_none(SHARE), [None, 0.5], [2, "None"]),
    (every(TEXT), [["*"]], [[1], "*"]),
]


@pytest.mark.parametrize("number_of_case", range(len(CASES)))
def test_what_a_rule_lets_pass(number_of_case):
    rule, right, wrong = CASES[number_of_case]
    for value in right:
        check_rules(CfgNode({"A": {"B": value}}), {"A.B": rule})
    for value in wrong:
        with pytest.raises(UserError, match="^A.B must be ") as raised:
            check_rules(CfgNode({"A": {"B": value}}), {"A.B": rule})
        shown = list(value) if isinstance(value, tuple) else value
        assert rule.says in str(raised.value) and str(raised.value).endswith(f"; got {shown!r}")


def test_every_wrong_key_is_said_and_an_absent_one_is_none():
    with pytest.raises(UserError, match=r"A must be 1 or more, and finite; got 0\n  B must be in 0\.\.1; got 2$"):
        check_rules(CfgNode({"A": 0, "B": 2, "C": 1}), {"A": COUNT, "B": SHARE, "C": COUNT, "D.E": COUNT})
