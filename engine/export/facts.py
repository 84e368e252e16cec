"""What an exported file says of itself, so that it can be used without the checkpoint it was made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from engine.errors import UserError

KEY = "se_backbones"  # under which the text stands in a file's own metadata
VERSION = 1


@dataclass(frozen=True)
class ExportFacts:
    """What a file says of itself.

    Attributes:
        task: whose model it is, as in checkpoints.
        architecture: of the backbone. fused: whether normalisation and gates were put into the convolutions.
        precision: fp32, bf16, fp16 or int8.
        inputs: name → size of each dimension, or its name where it can be any.
        outputs: names.
        classes: names, in the order of the outputs.
        config: of the run, as YAML.
        preprocessing: what was done to pixels before the first layer (``se_backbones.Preprocessing``), which the file's
            graph does itself: it takes bytes.
        details: what the task adds.
        versions: of what made the file.
    """

    task: str
    architecture: str
    fused: bool
    precision: str
    inputs: dict[str, list[int | str]]
    outputs: list[str]
    classes: list[str]
    config: str
    preprocessing: dict
    details: dict
    versions: dict

    def to_text(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str | None, path: Path) -> ExportFacts:
        """Raises UserError where a file says nothing, or what a newer or another program wrote."""
        try:
            content = json.loads(text or "")
            version = content.pop("version")
            if version == VERSION:
                return cls(**{field.name: content[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} does not say what it holds: tools/export.py did not write it") from None
        raise UserError(f"{path} is of version {version} of exported files, and this program reads version {VERSION}")

    def fixed(self, name: str, dimension: int) -> int | None:
        """The size of an input's dimension; None where it can be any."""
        size = self.inputs[name][dimension]
        return size if isinstance(size, int) else None
