"""A picture of the curves of precision and recall, a panel a category."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from detection.analysis.curves import RECALLS, Curve
from engine.fonts import plot_texts
from engine.predict.text import shown_name
from engine.report.plots import COLOURS, DPI, INK, MUTED, style_axes, write_figure

MAX_PANELS = 48
MAX_NAME_LENGTH = 18


def plot_curves(curves: Sequence[Curve], names: Sequence[str], path: str | Path) -> Path | None:
    """Precision over recall at IoU 0.50, 0..1, as pycocotools interpolates it, with AP50 in percent, and the threshold
    of each category as a dot at what it gives. Of more than ``MAX_PANELS`` categories the weakest are drawn.

    Returns:
        the path; None (and no file) where no category has objects.
    """
    drawn = [(index, found) for index, curve in enumerate(curves) if (found := curve.precisions()) is not None]
    if not drawn:
        return None
    known = len(drawn)
    weakest = sorted(drawn, key=lambda entry: entry[1].mean())[:MAX_PANELS]
    drawn = [entry for entry in drawn if entry[0] in {index for index, _ in weakest}]
    columns = min(len(drawn), 4 if len(drawn) <= 12 else 6)
    rows = -(-len(drawn) // columns)
    size = (max(1.75 * columns + 0.4, 4.6), 1.7 * rows + 0.9)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    texts, font = plot_texts(_short(shown_name(names, index)) for index, _ in drawn)
    for panel, (index, precision), text in zip(panels, drawn, texts, strict=False):
        style_axes(panel)
        panel.plot(RECALLS, precision, color=COLOURS[0], linewidth=1.6)
        if (best := curves[index].best()) is not None:
            panel.plot([best.recall], [best.precision], "o", color=COLOURS[1], markersize=4.5, clip_on=False)
            where = (best.recall, best.precision)
            panel.annotate(f"{best.score:.2f}", where, (-4, -11), textcoords="offset points", fontsize=7, color=INK,
                           ha="right")  # fmt: skip
        panel.set_xlim(0, 1.02)
        panel.set_ylim(0, 1.04)
        panel.set_title(f"{text}  {100 * precision.mean():.1f}", loc="left", fontsize=8, color=INK, **font)
    for panel in panels[len(drawn) :]:
        panel.set_visible(False)
    fewer = f"the weakest {len(drawn)} of {known} categories: " if len(drawn) < known else ""
    figure.suptitle(
        f"{fewer}AP50; dot: threshold of the highest F1", x=0.01, ha="left", fontsize=9.5, color=INK, fontweight="bold"
    )
    figure.supxlabel("recall", fontsize=9, color=MUTED)
    figure.supylabel("precision", fontsize=9, color=MUTED)
    return write_figure(figure, path)


def curve_table(curves: Sequence[Curve], names: Sequence[str]) -> dict:
    """For JSON: {"iou", "recall": [101], "precision": {category: [101], or None without objects}}, 0..1."""
    rows = {name: curve.precisions() for name, curve in zip(names, curves, strict=True)}
    return {
        "iou": 0.5,
        "recall": [round(float(value), 2) for value in RECALLS],
        "precision": {name: None if row is None else np.asarray(row).tolist() for name, row in rows.items()},
    }


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
