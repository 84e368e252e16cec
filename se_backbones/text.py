"""Texts for people: what UTF-8 can hold of them, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence


def writable(text: str) -> str:
    """A text of any length that can be written as UTF-8: what of its file names is none comes as escapes, ``caf\\xe9``,
    as do halves of surrogates, ``\\ud800``."""
    return text if text.isascii() else re.sub("[\ud800-\udfff]", lambda found: escape(found[0]), text)


def escape(character: str) -> str:
    """A character as Python's escapes have it; a byte of a file name that is no UTF-8 as that byte."""
    if "\udc80" <= character <= "\udcff":  # how Python writes such a byte
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def markdown(text: str) -> str:
    """A text in one line, in which Markdown shows every character as it is."""
    text = " ".join(text.split())
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in text)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A table in Markdown.

    Args:
        heads, rows: cells of Markdown: what a person named goes through ``markdown`` first.
        numbers: so many columns, the last ones, stand to the right.
    """
    rule = ["---"] * (len(heads) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *rows))
