"""Names of files and classes: what is written of them, and which of them are one or look like one."""

import unicodedata

import pytest

from engine.names import class_name, look_alike, printable


@pytest.mark.parametrize(
    "name, written",
    [
        ("living room", "living room"),
        ("Zürich 東京 ☂", "Zürich 東京 ☂"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\xe9"),
        ("bed\nroom\t\x00\x7f\x85", r"bed\nroom\t\x00\x7f\x85"),
        ("a\u2028b\ud800", r"a\u2028b\ud800"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # the joiner belongs to the word
        (" end ", " end "),
    ],
)
def test_what_cannot_be_written_everywhere_comes_as_escapes(name, written):
    assert printable(name) == written
    written.encode("utf-8")
    assert printable(written) == written


def test_both_forms_of_a_letter_are_one_class():
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    assert composed != decomposed and class_name(composed) == class_name(decomposed) == composed
    assert class_name("caf\udce9") == r"caf\xe9"


def test_names_that_look_alike_are_shown_apart():
    assert look_alike(["Cat", "dog"], ["cat", "dog"]) == "'Cat' and 'cat'"
    assert look_alike(["living room "], ["living_room"]) == "'living room ' and 'living_room'"
    assert look_alike(["cat", "ca\u200bt", "bird"]) == r"'cat' and 'ca\u200bt'"
    assert look_alike(["c", "c++", "c#", "10", "1.0"]) == look_alike(["a"], ["b"]) == ""
    many = look_alike([f"Class {number}" for number in range(9)], [f"class {number}" for number in range(9)])
    assert many.endswith("… (9 pairs in all)")
