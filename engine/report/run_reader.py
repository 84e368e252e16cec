"""What a run folder holds, read with any of its files missing or damaged."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from engine.config.dialect import read_yaml
from engine.errors import UserError
from engine.report.metrics import EVALUATION_FIGURES, read_metrics

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass
class Run:
    """The contents of a run folder, empty where a file is not there; `missing` says which and what for."""

    folder: Path
    config: dict = field(default_factory=dict)
    config_text: str = ""
    result: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)  # of metrics.jsonl, see read_metrics
    pictures: list[Path] = field(default_factory=list)
    weights: str | None = None  # the final ones, else those of the newest checkpoint; those that were evaluated
    annotation_problems: list[Path] = field(default_factory=list)  # the listings of what is wrong with the data
    broken_files: Path | None = None  # the listing of images that could not be read
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def figures(self) -> dict[str, dict]:
        """The evaluations in result.json, the known kinds only: {"bbox": {"AP": …}}."""
        return {kind: self.result[kind] for kind in EVALUATION_FIGURES if isinstance(self.result.get(kind), dict)}

    @property
    def is_evaluation(self) -> bool:
        """Whether weights were evaluated here, and none trained."""
        return isinstance(self.result.get("weights"), str)

    @property
    def task(self) -> str:
        """ "detection", "places365", or "" if nothing in the folder tells."""
        kinds = {*self.figures, *(key.split("/")[0] for row in self.rows for key in row)}
        if "places365" in kinds or self.result.get("task") == "places365":
            return "places365"
        is_detection = kinds & {"bbox", "segm", "keypoints"} or self.setting("MODEL.META_ARCHITECTURE")
        return "detection" if is_detection else ""

    def setting(self, key: str):
        """The value of a config key such as "SOLVER.MAX_ITER"; None where there is none."""
        return find(self.config, key)


def find(mapping, key: str):
    """mapping["A"]["B"] for "A.B"; None where there is no such entry."""
    for part in key.split("."):
        mapping = mapping.get(part) if isinstance(mapping, dict) else None
    return mapping


def read_run(folder) -> Run:
    """Read a run folder. Nothing in it is required. Raises UserError if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no run folder at {folder}")
    run = Run(folder)
    run.config_text = _text(run, "config.yaml", "the settings") or ""
    if run.config_text:
        try:
            run.config = read_yaml(folder / "config.yaml")
        except UserError as error:
            run.missing.append(str(error))
    run.result = _object(run, "result.json", "the figures of the evaluation at the end of a training") or {}
    if not run.is_evaluation and _text(run, "metrics.jsonl", "the log that curves are drawn from") is not None:
        run.rows = read_metrics(folder / "metrics.jsonl")
    run.annotation_problems = sorted(folder.glob("annotation_problems*.json"))
    run.broken_files = broken if (broken := folder / "broken_files.jsonl").exists() else None
    run.pictures = sorted(p for p in (folder / "predictions").glob("[!.]*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not run.pictures:
        run.missing.append("predictions/: pictures of what the model says")
    final = folder / "model_final.pth"
    checkpoints = sorted(folder.glob("checkpoint_*.pth"))
    if run.is_evaluation:
        run.weights = run.result["weights"]
    elif final.exists():
        run.weights = str(final)
    else:
        run.weights = str(checkpoints[-1]) if checkpoints else None
        instead = f"; the newest checkpoint is {checkpoints[-1].name}" if checkpoints else ""
        run.missing.append(f"model_final.pth: the weights at the end of a training{instead}")
    return run


def _text(run: Run, name: str, purpose: str) -> str | None:
    try:
        return (run.folder / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        run.missing.append(f"{name}: {purpose}")
    except OSError as error:
        run.missing.append(f"{name}: {purpose} (cannot be read: {error.strerror or os.strerror(error.errno or 0)})")
    return None


def _object(run: Run, name: str, purpose: str):
    text = _text(run, name, purpose)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        run.missing.append(f"{name}: {purpose} (damaged: {error})")
        return None
    if not isinstance(value, dict):
        run.missing.append(f"{name}: {purpose} (not a JSON object)")
        return None
    return value
