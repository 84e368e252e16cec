"""A study's pictures, drawn from its JSON without a display."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401  (no window)
from matplotlib.figure import Figure

from engine.fonts import plot_texts
from engine.report.plots import COLOURS, DPI, INK, MUTED, style_axes, write_figure
from studies.lab.paper import published_figures


def draw_rows(content: Mapping, path: Path) -> Path:
    """Two panels: each row's main figure with its errors, and its difference to the reference beside the paper's."""
    figure_name = content["figures"][0]
    rows = [row for row in content["rows"] if row["runs"]]
    by_name = {row["name"]: row for row in content["rows"]}
    references = {row["reference"] for row in rows}
    figure = Figure(figsize=(9.2, 1.5 + 0.42 * len(rows)), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    (names, font) = plot_texts([row["name"] for row in rows])
    for panel in (left, right):
        style_axes(panel)
        panel.grid(axis="x", color=panel.spines["bottom"].get_edgecolor(), linewidth=0.8)
        panel.grid(axis="y", visible=False)
    for place, row in enumerate(rows):
        centre = row["mean"][figure_name]
        if row["binomial_error"][figure_name] is not None:
            left.errorbar(
                centre, place, xerr=1.96 * row["binomial_error"][figure_name], color=MUTED, linewidth=1, capsize=3,
                label="95 % by images",
            )  # fmt: skip
        if row["deviation"][figure_name] is not None:
            left.errorbar(centre, place, xerr=row["deviation"][figure_name], color=COLOURS[1], linewidth=4, alpha=0.6,
                          label="± sd of seeds")  # fmt: skip
        left.plot(centre, place, "o", color=COLOURS[0], markersize=6, label="ours, mean")
        seeds = [run["figures"][figure_name] for run in row["runs"]]
        left.plot(seeds, [place] * len(seeds), "|", color=INK, markersize=9, label="seeds")
        reference = by_name[row["reference"]]
        if reference["runs"]:
            right.plot(
                centre - reference["mean"][figure_name], place, "o", color=COLOURS[0], markersize=6, label="ours"
            )
        own, origin = (published_figures(one).get(figure_name) for one in (row, reference))
        if own is not None and origin is not None:
            right.plot(own - origin, place, "D", mfc="none", color=COLOURS[3], markersize=7, label="the paper's")
    right.axvline(0, color=MUTED, linewidth=1)
    left.set_yticks(range(len(rows)), names, color=INK, **font)
    left.set_ylim(len(rows) - 0.5, -0.5)  # from above
    unit = "top-1 error, %" if content["errors"] else "AP, %"
    left.set_xlabel(unit, color=MUTED, fontsize=9)
    to = references.pop() if len(references) == 1 else "its twin"
    (texts, label_font) = plot_texts([f"difference to {to}, points"])
    right.set_xlabel(texts[0], color=MUTED, fontsize=9, **label_font)
    for panel in (left, right):
        once = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        panel.legend(
            once.values(),
            once.keys(),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            frameon=False,
            fontsize=8,
            labelcolor=INK,
        )
    caption = [f"{content['dataset']}, {content['base']}", *textwrap.wrap(content["note"], 150)]
    (lines, font) = plot_texts(caption)
    figure.supxlabel("\n".join(lines), fontsize=7, color=MUTED, **font)
    return write_figure(figure, path)


def draw_gates(gates: Mapping, path: Path) -> Path:
    """A row of panels for each gate: classes over the mean of all (figure 6), and two classes with their spread
    (figure 7)."""
    entries = gates["gates"]
    figure = Figure(figsize=(3.4 * len(entries), 5.2), dpi=DPI, layout="constrained")
    panels = figure.subplots(2, len(entries), squeeze=False, sharey=True)
    names, font = plot_texts([*gates["classes"], "mean of all"])
    for (above, below), entry in zip(panels.T, entries, strict=True):
        x = np.arange(len(entry["channels"]))
        for number, curve in enumerate(entry["classes"]):
            above.plot(x, curve, color=COLOURS[number % len(COLOURS)], linewidth=1, label=names[number])
        above.plot(x, entry["mean_of_classes"], color=INK, linewidth=1.4, linestyle="--", label=names[-1])
        for number, spread in enumerate(entry["spreads"]):
            curve, spread = np.asarray(entry["classes"][number]), np.asarray(spread)
            colour = COLOURS[number % len(COLOURS)]
            below.plot(x, curve, color=colour, linewidth=1)
            below.fill_between(x, curve - spread, curve + spread, color=colour, alpha=0.25, linewidth=0)
        for panel in (above, below):
            style_axes(panel)
            panel.set_title(entry["name"], loc="left", fontsize=9, color=INK, fontweight="bold", parse_math=False)
        below.set_xlabel(f"{len(x)} of {entry['of_channels']} channels", color=MUTED, fontsize=8)
    panels[0][0].set_ylabel("mean gate", color=MUTED, fontsize=9)
    panels[1][0].set_ylabel("mean gate ± sd in a class", color=MUTED, fontsize=9)
    legend = figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=len(names), frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        text.set(**font)
    return write_figure(figure, path)
