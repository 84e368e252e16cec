"""Texts that people read: what can be written of them, and as Markdown."""

from se_backbones.text import markdown, markdown_table, writable


def test_a_text_keeps_its_lines_and_what_no_file_can_hold_comes_as_escapes():
    text = "first \udce9\n\tsecond ü \ud800\n"
    assert writable(text) == "first \\xe9\n\tsecond ü \\ud800\n"
    assert writable("plain\n") == "plain\n"


def test_a_text_is_shown_by_the_letter_in_one_line():
    assert markdown("a|b*c\n d_[e](f) <g> `h` #1 \\") == "a\\|b\\*c d\\_\\[e\\](f) \\<g\\> \\`h\\` \\#1 \\\\"


def test_a_table_has_its_numbers_to_the_right():
    table = markdown_table(("name", "of", "AP"), [("`a`", "b", "1.0"), ("c", "d", "2.0")], numbers=1)
    assert table.splitlines() == ["| name | of | AP |", "| --- | --- | ---: |", "| `a` | b | 1.0 |", "| c | d | 2.0 |"]
    assert markdown_table(("", ""), []) == "|  |  |\n| --- | --- |"
