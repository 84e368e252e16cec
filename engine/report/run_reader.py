"""What a run folder holds, read with any of its files missing or damaged."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from engine.config.dialect import read_yaml
from engine.errors import UserError
from engine.report.metrics import read_metrics
from engine.task import ConfigFacts, TaskInfo

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass
class Run:
    """The contents of a run folder, empty where a file is not there; `missing` says which and what for."""

    folder: Path
    task: TaskInfo
    config: dict = field(default_factory=dict)
    config_text: str = ""
    result: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)  # of metrics.jsonl, see read_metrics
    pictures: list[Path] = field(default_factory=list)
    weights: str | None = None  # the final ones, else those of the newest checkpoint; those that were evaluated
    listings: dict[str, list[Path]] = field(default_factory=dict)  # what is wrong with the data → where that is listed
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def figures(self) -> dict[str, dict]:
        """The evaluations in result.json: {group: {figure: percent}}, the task's groups only."""
        return {group: self.result[group] for group in self.task.figures if isinstance(self.result.get(group), dict)}

    @property
    def is_evaluation(self) -> bool:
        """Whether weights were evaluated here, and none trained."""
        return isinstance(self.result.get("weights"), str)

    @property
    def facts(self) -> ConfigFacts:
        """What the task's own keys say."""
        return self.task.read_config(self.config, self.result)

    def setting(self, key: str):
        """The value of a config key such as "SOLVER.MAX_ITER"; None where there is none."""
        return find(self.config, key)


def find(mapping, key: str):
    """mapping["A"]["B"] for "A.B"; None where there is no such entry."""
    for part in key.split("."):
        mapping = mapping.get(part) if isinstance(mapping, dict) else None
    return mapping


def flat(value) -> str:
    """Nested lists and dicts as one line of text; nothing, for what is empty."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {flat(item)}" for key, item in value.items())
    return ", ".join(flat(item) for item in value) if isinstance(value, list | tuple) else str(value or "")


def read_run(folder, task: TaskInfo) -> Run:
    """Read the folder of a run of a task. Nothing in it is required. Raises UserError if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no run folder at {folder}")
    run = Run(folder, task)
    run.config_text = _text(run, "config.yaml", "the settings") or ""
    if run.config_text:
        try:
            run.config = read_yaml(folder / "config.yaml")
        except UserError as error:
            run.missing.append(str(error))
    run.result = _object(run, "result.json", "the figures of the evaluation at the end of a training") or {}
    if not run.is_evaluation and _text(run, "metrics.jsonl", "the log that curves are drawn from") is not None:
        run.rows = read_metrics(folder / "metrics.jsonl")
    listings = {sentence: sorted(folder.glob(pattern)) for pattern, sentence in task.listings.items()}
    run.listings = {sentence: paths for sentence, paths in listings.items() if paths}
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
