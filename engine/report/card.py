"""A model's card: what a run's weights are, in one page of Markdown beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.report.facts import describe, origin_facts, training_facts
from engine.report.page import is_number, number
from engine.report.run_reader import Run, find, read_run
from engine.report.summary import commands
from engine.task import TaskInfo
from se_backbones.files import write_atomically
from se_backbones.text import markdown, markdown_table, writable

logger = logging.getLogger(__name__)

NAME = "README.md"  # which hubs and forges show beside the files
_MARK = "<!-- written at the end of the run; a later evaluation or training of this folder writes it anew -->"
# Said elsewhere on the card.
_ELSEWHERE = ("Classes", "Command", "Versions", "Hardware")


def write_card(run_dir: str | Path, task: TaskInfo) -> Path | None:
    """Writes `run_dir`/README.md from the files of a run, as many of them as there are. One that a person wrote is
    left alone.

    Returns:
        its path; None where a person's is there.
    """
    path = Path(run_dir) / NAME
    if path.exists() and not is_card(path):
        logger.info("%s is not this program's, and is left as it is: no card of the model is written", path)
        return None
    return write_atomically(path, writable(card(read_run(run_dir, task))))


def is_card(path: Path) -> bool:
    """Whether a file is a card that ``write_card`` wrote."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return _MARK in file.read(1000)


def card(run: Run) -> str:
    """The card's text: what was trained, on what, how well, by which command and versions, what goes in and what comes
    out. What the run's files do not tell is left out; of a licence they never do."""
    title = describe(run)
    parts = [
        # What Hugging Face's hub reads: huggingface.co/docs/hub/model-cards
        f"---\nlibrary_name: se-backbones\ntags:\n- squeeze-and-excitation\n- {run.task.name}\n---",
        _MARK,
        f"# {markdown(title)}",
        f"{run.task.title}. The weights are of a run of se-backbones, and this page is made of that run's files.",
        *_section("Figures", _figures(run)),
        *_section("What it is", _table(("", ""), _known(training_facts(run)))),
        *_section("What goes in", _table(("", ""), _inputs(run))),
        *_section("What comes out", _classes(run)),
        *_section("How it was made", _origin(run)),
        *_section(
            "How to use it", [f"{purpose}:\n\n```\n{command}\n```\n" for purpose, command in commands(run).items()]
        ),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(lines)] if lines else []


def _figures(run: Run) -> list[str]:
    task = run.task
    rows = [
        (task.figures[group], task.label(name), number(float(value), 2))
        for group, figures in run.figures.items()
        for name, value in figures.items()
        if is_number(value) and value is not None
    ]
    if not rows:
        return []
    images = run.result.get("images")
    on = run.facts.evaluation_data or run.result.get("dataset") or "its validation set"
    of = f"In percent, of {number(images)} images of {on}." if images else f"In percent, of {on}."
    return [markdown(of), "", *_table(("", "", "percent"), rows)]


def _known(facts: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(name, value) for name, value in facts if value not in (None, "", [], {}) and name not in _ELSEWHERE]


def _inputs(run: Run) -> list[tuple[str, object]]:
    """The preprocessing, as the keys of the config have it."""
    rows = [("Images", run.facts.image_size)]
    for name, key in (
        ("Order of the channels", "INPUT.FORMAT"),
        ("Less, of each channel in 0 to 255", "MODEL.PIXEL_MEAN"),
        ("Then divided by", "MODEL.PIXEL_STD"),
    ):
        value = run.setting(key)
        rows.append((name, ", ".join(f"{one:g}" for one in value) if isinstance(value, list) else value))
    return _known(rows)


def _classes(run: Run) -> list[str]:
    by_group = [find(run.result, f"per_category.{group}") for group in run.figures]
    names = next((list(values) for values in by_group if isinstance(values, dict)), [])
    listed = ", ".join(json.dumps(name, ensure_ascii=False) for name in names)
    return [f"{len(names)} classes, in the order of their indices:", "", f"```\n{listed}\n```"] if names else []


def _origin(run: Run) -> list[str]:
    facts = dict(origin_facts(run))
    rows = [*_known(facts.items()), *((name, facts[name]) for name in ("Hardware", "Versions") if facts.get(name))]
    command = [f"```\n{facts['Command']}\n```", ""] if facts.get("Command") else []
    config = ["All settings are in `config.yaml` beside this page."] if run.config else []
    return [*command, *_table(("", ""), rows), *([""] if rows and config else []), *config]


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [markdown_table(heads, [[markdown(str(cell)) for cell in row] for row in rows])] if rows else []
