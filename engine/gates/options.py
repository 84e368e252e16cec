"""What a look at the gates is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import UserError


@dataclass(frozen=True)
class Options:
    """The command line; see ``tools/gates.py --help``."""

    weights: Path
    data: Path | None = None
    output: Path | None = None
    images: int | None = None
    device: str = "auto"
    overrides: Sequence[str] = field(default_factory=tuple)

    @property
    def folder(self) -> Path:
        """Where everything goes; by default beside the weights."""
        return self.output or self.weights.parent / "gates"

    def check(self) -> None:
        """Raises UserError where the folder cannot be written to, before anything is computed."""
        if self.images is not None and self.images < 1:
            raise UserError(f"--images {self.images}: look at 1 image or more")
        there = next(place for place in (self.folder, *self.folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "may not be written to" if there.is_dir() else "is a file"
            raise UserError(f"--output {self.folder}: {there} {why}; name another folder")
