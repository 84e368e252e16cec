"""The formats, and what they can hold."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from engine.errors import UserError
from engine.export.facts import ExportFacts

if TYPE_CHECKING:  # command lines ask for the formats' names alone
    import torch


class Session(Protocol):
    """An exported model in its runtime.

    Attributes:
        facts: what the file says of itself. device: where it runs.
    """

    facts: ExportFacts
    device: torch.device

    def __call__(self, **inputs: torch.Tensor) -> list[torch.Tensor]:
        """The graph's inputs by name → its outputs, in the order of the facts."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: on the command line. suffix: of its files.
        module: of this package, with ``write`` and ``Session``.
        packages: that writing and running it needs.
        precisions: that it can hold.
    """

    name: str
    suffix: str
    module: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...]

    def load(self) -> ModuleType:
        """Its module. Raises UserError where a package that it needs is not installed."""
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise UserError(f'{self.name} needs {package}: pip install -e ".[export]"') from error
        return importlib.import_module(f"engine.export.{self.module}")

    def files(self, path: Path) -> list[Path]:
        """Those that one exported model is."""
        return [path.with_suffix(".bin"), path] if self.suffix == ".xml" else [path]


ONNX = ("onnx", "onnxscript")  # the second writes the first

FORMATS = {
    one.name: one
    for one in (
        # ONNX Runtime has no convolution in bf16 on processors.
        Format("onnx", ".onnx", "onnx_file", (*ONNX, "onnxruntime"), ("fp32", "fp16", "int8")),
        Format("openvino", ".xml", "openvino_file", (*ONNX, "openvino"), ("fp32", "bf16", "fp16", "int8")),
        Format("torch-export", ".pt2", "torch_export_file", (), ("fp32", "bf16", "fp16")),
    )
}


def format_of(path: str | Path) -> Format | None:
    """The format of an exported file, by the end of its name; None for others, such as checkpoints."""
    return next((one for one in FORMATS.values() if Path(path).suffix == one.suffix), None)


def open_exported(path: str | Path, device: torch.device, tasks: tuple[str, ...]) -> Session:
    """An exported model, ready to run.

    Args:
        tasks: which it may be of.

    Raises:
        UserError: it cannot be read or run, or is of another task.
    """
    path = Path(path)
    kind = format_of(path)
    if kind is None:
        raise UserError(f"{path}: exported models end with {', '.join(one.suffix for one in FORMATS.values())}")
    if not path.is_file():
        raise UserError(f"there is no exported model at {path}")
    session = kind.load().Session(path, device)
    if session.facts.task not in tasks:
        raise UserError(f"{path} is a model of the task {session.facts.task!r}, not of {' or '.join(tasks)}")
    return session


def check_precision(precision: str, facts: ExportFacts) -> None:
    """Raises UserError where another precision than the file's is asked for; fp32, the default, asks for none."""
    if precision not in ("fp32", "auto", facts.precision):
        raise UserError(
            f"--precision {precision}: an exported model computes in what it was written for, {facts.precision}; "
            "export it again"
        )


def check_config(config: str | Path | None, weights: str | Path) -> None:
    """Raises UserError where a config is given for an exported file."""
    if config is not None:
        raise UserError(f"--config {config}: {weights} is an exported model, which has its config in it")
