"""What an export is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import UserError
from engine.export.formats import FORMATS, format_of

if TYPE_CHECKING:  # --help is answered without it
    import torch


@dataclass(frozen=True)
class Options:
    """The command line of an export; see ``tools/export.py --help``."""

    weights: Path
    format: str
    precision: str = "fp32"
    dynamic: tuple[str, ...] = ()
    output: Path | None = None
    size: tuple[int, int] | None = None
    batch_size: int = 1
    images: tuple[Path, ...] = ()
    calibration: int = 300
    int8_gates: bool = False
    evaluate: bool = False
    rounds: int = 9
    overrides: Sequence[str] = field(default_factory=tuple)

    def check(self, dynamic: Mapping[str, str]) -> None:
        """dynamic: what may vary, and why the rest may not. Raises UserError for what cannot be."""
        if self.precision not in FORMATS[self.format].precisions:
            can = [name for name, one in FORMATS.items() if self.precision in one.precisions]
            raise UserError(f"--format {self.format} cannot hold {self.precision}; {' and '.join(can)} can")
        for name in self.dynamic:
            if reason := dynamic.get(name, f"of what can vary there is {' and '.join(dynamic)}"):
                raise UserError(f"--dynamic {name}: {reason}")
        if self.output is not None and format_of(self.output) is not FORMATS[self.format]:
            raise UserError(f"{self.output}: a file of --format {self.format} ends with {FORMATS[self.format].suffix}")

    @property
    def dtype(self) -> torch.dtype:
        """Of the network in the graph. OpenVINO's files hold float32 or float16, and it computes in bf16 by itself."""
        import torch

        within = self.format != "openvino"
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision if within else "", torch.float32)

    @property
    def path(self) -> Path:
        """Of the file; by default beside the weights, with the precision in its name."""
        if self.output is not None:
            return self.output
        mark = "" if self.precision == "fp32" else f"_{self.precision}"
        return self.weights.with_name(f"{self.weights.stem}{mark}{FORMATS[self.format].suffix}")
