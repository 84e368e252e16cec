"""Texts for people: as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


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
