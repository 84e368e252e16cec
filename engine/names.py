"""Names that people gave to files and classes: how they are written, and when two of them are one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from se_backbones.text import escape

_UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories: controls, surrogates, line and paragraph separators
_SHOWN = 5  # pairs of names in a message


def printable(name: str) -> str:
    """A name as it can stand in any file, log, table and picture: line breaks, other control characters, and bytes of
    a file name that are no UTF-8 as escapes (``bed\\nroom``, ``caf\\xe9``); all else as it is."""
    return name if name.isprintable() else "".join(map(_escaped, name))


def class_name(name: str) -> str:
    """The name of a class that a folder or a file calls so: Unicode's composed form (NFC), since archives of macOS
    have "é" as two characters that look like the one, and ``printable``."""
    return printable(unicodedata.normalize("NFC", name))


def look_alike(first: Iterable[str], second: Iterable[str] | None = None) -> str:
    """Names that are told apart by case, spaces, "_", "-", width or what cannot be seen alone, in pairs as Python
    writes them in ASCII: "'Cat' and 'cat'"; empty where there are none.

    Args:
        first, second: one of a pair is from either; without ``second`` both are from ``first``.
    """
    pairs: list[tuple[str, str]] = []
    seen = {_look(name): name for name in second} if second is not None else {}
    for name in first:
        other = seen.get(_look(name), name) if second is not None else seen.setdefault(_look(name), name)
        if other != name:
            pairs.append((name, other) if second is not None else (other, name))
    shown = ", ".join(f"{ascii(one)} and {ascii(other)}" for one, other in pairs[:_SHOWN])
    return shown + (f", … ({len(pairs)} pairs in all)" if len(pairs) > _SHOWN else "")


def _escaped(character: str) -> str:
    return escape(character) if unicodedata.category(character) in _UNWRITABLE else character


def _look(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    seen = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    return re.sub(r"[\s_-]+", " ", seen).strip()
