"""What is an id, a number and a crowd."""

import math

import numpy as np
import pytest

from detection.annotations.values import as_id, is_finite, is_id, is_size, printable, read_crowd, shown, usual_kind


@pytest.mark.parametrize("value", [0, -3, 2**70, 1.0, np.int64(7), np.float64(2), "c1", "", "名"])
def test_ids_are_equal_to_what_is_written_of_them(value):
    assert is_id(value) and as_id(value) == value and type(as_id(value)) in (int, str)


@pytest.mark.parametrize("value", [True, None, 1.5, math.nan, math.inf, 1e17, [1], {}, b"1", "\ud800"])
def test_what_is_no_id(value):
    assert not is_id(value)


@pytest.mark.parametrize("value", [None, 0, 0.0, False, "0", " false", np.int64(0), np.bool_(False)])
def test_no_crowds(value):
    assert read_crowd({"iscrowd": value}) is False
    assert read_crowd({}) is False


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "True", 2, -1, np.int8(1), np.bool_(True)])
def test_crowds(value):
    assert read_crowd({"iscrowd": value}) is True


@pytest.mark.parametrize("value", ["", "yes", "2", 0.5, math.nan, math.inf, [], [0], {}, 10**400])
def test_neither(value):
    with pytest.raises(ValueError, match="`iscrowd` is "):
        read_crowd({"iscrowd": value})


def test_numbers_beyond_float64_are_not_finite():
    assert is_finite(10**308) and not is_finite(10**309) and not is_size(10**309) and not is_finite(True)


def test_the_usual_kind_is_that_of_most():
    assert usual_kind(["1", 2, 3, None]) is int and usual_kind(["1", "2", 3.0]) is str and usual_kind([]) is int


def test_messages_are_short_and_can_be_written():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, 10**4000, "x" * 10_000, {str(n): n for n in range(1000)}, "\ud800", np.zeros(10_000)):
        assert len(shown(value)) < 200 and shown(value).encode()
    assert printable("a\nb\ud800\x85 名\u3000\u200d") == "a\\nb\\ud800\\x85 名\u3000\u200d"
