"""What a load did with every name, of the file and of the model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from se_backbones.files import write_atomically
from se_backbones.text import writable

SHOWN = 12  # lines of names a group on the console; the JSON has them all


@dataclass
class WrongShape:
    """A tensor that does not fit; shapes as tuples."""

    name: str
    source_name: str
    in_file: tuple[int, ...]
    in_model: tuple[int, ...]
    reason: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: {list(self.in_file)} in the file, {list(self.in_model)} in the model"
        return f"{text} ({self.reason})" if self.reason else text


@dataclass
class LoadReport:
    """Every name is in exactly one of loaded, missing, unexpected, wrong_shape, derived and ignored.

    Attributes:
        source, layout, sha256: of the weights; ``architecture``: as the file states it.
        loaded: names in the model that took the file's tensor.
        converted: those of them whose name or form was another in the file: model's name -> file's name.
        missing: names in the model that the file does not have; the model keeps its own values.
        unexpected: names in the file (its own) for which the model has no place.
        wrong_shape: names in both whose shapes differ.
        allowed: those of the last three that the caller allowed -> the pattern that did it.
        derived: names in the model that follow from others: a BatchNorm's counter, folded statistics -> why.
        ignored: names in the file that hold nothing to load -> why.
        preprocessing: what the weights need, a dictionary or None; ``preprocessing_basis``: stated,
            published, usual.
        classes: the file's class names, or None.
        notes: what the file held besides.
        warnings: what did not stop the load and deserves a look; ``problems``: what stopped it beside names.
    """

    source: str
    layout: str
    sha256: str = ""
    architecture: str | None = None
    loaded: list[str] = field(default_factory=list)
    converted: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[WrongShape] = field(default_factory=list)
    allowed: dict[str, str] = field(default_factory=dict)
    derived: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    preprocessing: dict | None = None
    preprocessing_basis: str = ""
    classes: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def unaccounted(self) -> list[str]:
        """Names missing, unexpected or of the wrong shape that nobody allowed. Empty after a load."""
        names = [*self.missing, *self.unexpected, *(wrong.name for wrong in self.wrong_shape)]
        return [name for name in names if name not in self.allowed]

    def counts(self) -> dict[str, int]:
        """How many names each group has."""
        return {
            "loaded": len(self.loaded),
            "converted": len(self.converted),
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
            "wrong shape": len(self.wrong_shape),
            "allowed": len(self.allowed),
            "derived": len(self.derived),
            "ignored": len(self.ignored),
        }

    def format(self, shown: int = SHOWN) -> str:
        """For the console: counts first, then the names that need a look, alike ones in one line."""
        return writable("\n".join(self._lines(shown)))

    def _lines(self, shown: int) -> list[str]:
        lines = [f"weights {self.source} (layout {self.layout}{', ' + self.architecture if self.architecture else ''})"]
        lines.append("  " + ", ".join(f"{count} {name}" for name, count in self.counts().items()))
        if self.preprocessing:
            p = self.preprocessing
            lines.append(
                f"  preprocessing ({self.preprocessing_basis}): {p['channel_order']} 0–{p['scale']:g}, "
                f"mean {p['mean']}, std {p['std']}"
            )
        if self.classes:
            lines.append(
                f"  {len(self.classes)} classes: {', '.join(self.classes[:4])}{', …' if len(self.classes) > 4 else ''}"
            )
        for title, names in (
            ("missing in the file", self.missing),
            ("unexpected in the file", self.unexpected),
            ("wrong shape", [str(wrong) for wrong in self.wrong_shape]),
        ):
            refused = [name for name in names if name.split(":")[0] not in self.allowed]
            tolerated = [name for name in names if name.split(":")[0] in self.allowed]
            lines += _group(title, refused, shown)
            lines += _group(f"{title}, allowed", tolerated, shown)
        lines += _group("ignored", [f"{name} ({why})" for name, why in self.ignored.items()], shown)
        lines += [f"  note: {text}" for text in self.notes]
        lines += [f"  warning: {text}" for text in self.warnings]
        return lines + [f"  problem: {text}" for text in self.problems]

    def as_dict(self) -> dict:
        """Everything, as plain values; counts first."""
        return {"counts": self.counts(), **asdict(self)}

    def to_json(self) -> str:
        """Everything, as JSON."""
        return as_json(self.as_dict(), indent=1)

    def write(self, path: str | os.PathLike) -> Path:
        """Writes the JSON, whole or not at all; returns its path."""
        return write_atomically(path, self.to_json() + "\n")


def as_json(value, **options) -> str:
    """JSON with letters as they are; all in ASCII where a name in it has half a surrogate, and read back as it was."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return text if text == writable(text) else json.dumps(value, **options)


def _group(title: str, names: list[str], shown: int) -> list[str]:
    if not names:
        return []
    lines = fold_names(names)
    more = len(lines) - shown
    text = [f"  {title} ({len(names)}):", *(f"    {line}" for line in lines[:shown])]
    return text + ([f"    … and {more} more lines, all in the report's JSON"] if more > 0 else [])


def fold_names(names: Iterable[str]) -> list[str]:
    """Names that differ in numbers alone become one line: ``layer*.*.bn*.bias ×48``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+(?=[._]|$)", "*", name), []).append(name)
    return [f"{pattern} ×{len(group)}" if len(group) > 1 else group[0] for pattern, group in groups.items()]
