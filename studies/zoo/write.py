"""The model zoo's files: a table for people, and one CSV a data set for programs, in timm's columns."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from se_backbones import create_backbone
from se_backbones.files import write_atomically
from se_backbones.registry import families
from se_backbones.text import markdown_table
from studies.zoo.rows import Row, by_data, read_rows

# github.com/huggingface/pytorch-image-models, results/results-imagenet.csv: percentages with three decimals, millions
# of parameters with two.
TIMM_COLUMNS = ("model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct", "interpolation")
DETECTION_COLUMNS = ("model", "AP", "AP50", "AP75", "param_count", "min_size", "max_size")
INTERPOLATION = "bilinear"  # classification/images/transforms.py, resize


def write_zoo(results: Path, docs: Path) -> list[Path]:
    """Writes ``model_zoo.md`` into the folder of the pages, and ``results-SET.csv`` into that of the results; those of
    sets that have no results any more are removed.

    Raises:
        UserError: as ``read_rows``.
    """
    files = zoo_files(results)
    for path in results.glob("results-*.csv"):
        if path.name not in files:
            path.unlink()
    return [write_atomically((docs if name.endswith(".md") else results) / name, text) for name, text in files.items()]


def zoo_files(results: Path) -> dict[str, str]:
    """Name → content of each file."""
    sets = by_data(read_rows(results))
    return {"model_zoo.md": _page(sets), **{f"results-{name}.csv": _csv(rows) for name, rows in sets.items()}}


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DETECTION_COLUMNS if rows[0].detector else TIMM_COLUMNS)
    for row in rows:
        millions = f"{row.parameters / 1e6:,.2f}"
        if row.detector:
            figures = [_decimals(row.figures.get(name)) for name in DETECTION_COLUMNS[1:4]]
            writer.writerow([row.model, *figures, millions, row.size, row.whole])
        else:
            figures = [_decimals(value) for name in ("top1", "top5") for value in _both(row.figures.get(name))]
            share = f"{row.size / row.whole:.3f}" if row.whole else ""
            writer.writerow([row.model, *figures, millions, row.size, share, INTERPOLATION])
    return text.getvalue()


def _both(accuracy: float | None) -> tuple[float | None, float | None]:
    return accuracy, None if accuracy is None else 100 - accuracy


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _page(sets: dict[str, list[Row]]) -> str:
    parts = [
        "# Model zoo",
        "<!-- made by tools/model_zoo.py from results/ and the table of published weights: do not edit -->",
        "Networks that this project has trained, small ones on small sets, with their figures, and the published "
        "ImageNet weights that it takes by name. A model is called `architecture.tag`; the tag is the file in "
        "[results](../results), or the study and its row. The weights of the project's own are not published: the "
        "command in the file makes them. Of several seeds the mean stands here, with the standard deviation. The CSVs "
        "have timm's columns, of detectors like ones.",
        *(_set(name, rows) for name, rows in sets.items()),
        "## ImageNet weights",
        "What `MODEL.WEIGHTS pretrained` fetches, by the name of the release, whose licence is the publisher's. Other "
        "networks have none; files in the layouts of the README load too.",
        markdown_table(("architecture", "source", "parameters / M"), _published(), numbers=1),
    ]
    return "\n\n".join(parts) + "\n"


def _set(name: str, rows: Sequence[Row]) -> str:
    kind = "detectors" if rows[0].detector else "classifiers"
    figures = ("AP", "AP50", "AP75") if rows[0].detector else ("top1", "top5")
    heads = ("AP", "AP50", "AP75") if rows[0].detector else ("top-1", "top-5")
    table = [
        [
            f"`{row.model}`",
            f"[{Path(row.source).stem}](../results/{row.source})",
            *(_figure(row, figure) for figure in figures),
            str(row.seeds),
            f"{row.parameters / 1e6:,.2f}",
            str(row.size),
        ]
        for row in rows
    ]
    images = " or ".join(sorted({f"{row.images:,}" for row in rows}))
    notes = dict.fromkeys(row.note for row in rows if row.note)
    lines = [
        f"## {name}: {kind}",
        f"In percent, of {images} validation images; [results-{name}.csv](../results/results-{name}.csv).",
        *(f"Note: {note}" for note in notes),
        markdown_table(("model", "from", *heads, "seeds", "parameters / M", "pixels"), table, numbers=len(heads) + 3),
    ]
    return "\n\n".join(lines)


def _figure(row: Row, name: str) -> str:
    value, deviation = row.figures.get(name), row.deviation.get(name)
    if value is None:
        return "–"
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {deviation:.2f}"


@functools.cache  # thirty networks
def _published() -> tuple[tuple[str, str, str], ...]:
    """(architecture, source, millions of parameters) of each."""
    rows = []
    for family in families():
        for name, source in family.published.items():
            with torch.device("meta"):  # no memory, no random numbers
                parameters = sum(parameter.numel() for parameter in create_backbone(name).parameters())
            rows.append((f"`{name}`", f"`{source}`", f"{parameters / 1e6:,.2f}"))
    return tuple(rows)
