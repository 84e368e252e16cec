"""A comparison for people: lines for the console, and one HTML with the curves and the images."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from engine.compare.answers import Panel
from engine.compare.comparison import Case, Comparison, Pair, Table, task_figure
from engine.compare.runs import main_figure
from engine.names import printable
from engine.report.metrics import evaluations, series
from engine.report.page import Picture, bars, embedded, number, read_picture, render
from engine.report.plots import plot_comparison
from se_backbones.files import write_atomically

MAX_CURVE_BYTES, MAX_PICTURE_BYTES = 1_300_000, 3_300_000  # base64 included: a page that can be mailed
# Longest side in pixels and JPEG quality, tried in turn until the pictures fit.
PICTURE_SIZES = ((800, 80), (640, 75), (480, 70), (360, 65), (240, 60))


def describe(comparison: Comparison) -> str:
    """The figures, what each difference is worth, and what could not be compared, in lines."""
    lines = aligned(comparison.figures)
    for pair in comparison.pairs:
        lines += ["", f"{_sentence(comparison, pair)} {pair.verdict}"]
    if comparison.images:
        lines += ["", f"images of which the runs do not say the same: {comparison.differing} of {comparison.images}"]
    if comparison.problems:
        lines += ["", *(f"note: {printable(problem)}" for problem in comparison.problems)]
    return "\n".join(lines).strip()


def _sentence(comparison: Comparison, pair: Pair) -> str:
    figure = task_figure(comparison.runs[pair.second])
    if abs(pair.difference) < 0.005:
        return f"{pair.second}: {figure} as that of {pair.first}."
    more = "more" if pair.difference > 0 else "less"
    return f"{pair.second}: {abs(pair.difference):.2f} points of {figure} {more} than {pair.first}."


def aligned(table: Table) -> list[str]:
    """A table's rows as lines, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def write_page(comparison: Comparison, path: str | Path) -> Path:
    """Writes one HTML that loads nothing from elsewhere, below about 5 MB. Returns its path.

    Raises:
        OSError: the place cannot be written to.
    """
    problems = list(comparison.problems)
    cases = _cases(comparison.cases, problems)
    page = render(
        "compare.html.j2",
        title=f"{len(comparison.runs)} runs compared",
        task=comparison.task.title,
        headline=[
            (number(main_figure(run)), f"{task_figure(run)}, {name}")
            for name, run in comparison.runs.items()
            if main_figure(run) is not None
        ],
        problems=problems,
        figures=_shown(comparison.figures),
        verdicts=[(_sentence(comparison, pair), pair.verdict) for pair in comparison.pairs],
        classes=_shown(comparison.classes),
        curves=_curves(comparison),
        cases=cases,
        differing=comparison.differing,
        images=comparison.images,
        settings=_shown(comparison.settings, numbers=False),
        folders=[(name, str(run.folder)) for name, run in comparison.runs.items()],
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    return write_atomically(path, page)


def _shown(table: Table, numbers: bool = True) -> dict | None:
    """As the template draws tables; None for an empty one."""
    if not table:
        return None
    columns = ["", *[Markup('class="number"') if numbers else ""] * (len(table[0]) - 1)]
    return {"heads": table[0], "rows": table[1:], "columns": columns}


def _curves(comparison: Comparison) -> list[Picture]:
    """The losses and the task's main figures of all runs that logged them, over each other."""
    rows = {name: run.rows for name, run in comparison.runs.items() if run.rows}
    logged = {f"{group}/{figure}" for one in rows.values() for group, figure, *_ in evaluations(one, comparison.task)}
    wanted = [f"{group}/{figure}" for group in comparison.task.figures for figure in comparison.task.main_figures]
    curves, size = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for place, metric in enumerate([*(name for name in wanted if name in logged), "total_loss"]):
            having = {name: one for name, one in rows.items() if series(one, metric)[0]}
            if having:
                drawn = plot_comparison(having, metric, Path(folder) / f"{place}.png")
                picture = read_picture(drawn, 1600, 85)
                picture.name = metric
                size += len(picture.uri)
                curves += [picture] if size <= MAX_CURVE_BYTES else []
    return curves


def _cases(cases: Sequence[Case], problems: list[str]) -> list[dict]:
    """The images, as large as the page has room for; those for which there is none are left out, and that is said."""
    for side, quality in PICTURE_SIZES:
        shown = [_case(case, side, quality) for case in cases]
        if sum(case["bytes"] for case in shown) <= MAX_PICTURE_BYTES:
            return shown
    while sum(case["bytes"] for case in shown) > MAX_PICTURE_BYTES:
        shown.pop()
    problems.append(f"{len(cases) - len(shown)} images are left out, as the page would become too large")
    return shown


def _case(case: Case, side: int, quality: int) -> dict:
    panels = {"": _panel(case.truth, case.image, side, quality)}
    panels |= {name: _panel(panel, f"{case.image}, {name}", side, quality) for name, panel in case.said.items()}
    size = sum(len(panel["picture"].uri) for panel in panels.values() if panel["picture"])
    return {"image": case.image, "panels": panels, "bytes": size}


def _panel(panel: Panel, name: str, side: int, quality: int) -> dict:
    picture = None
    if panel.picture is not None:
        picture = embedded(Image.fromarray(np.ascontiguousarray(panel.picture)), name, side, quality)
    mark = {None: "", True: "✓ ", False: "✗ "}[panel.right]
    return {"words": mark + panel.words, "picture": picture, "bars": bars(panel.bars)}
