"""Pictures of what was made of a network."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.report.plots import COLOURS, DPI, INK, MUTED, style_axes, write_figure


def draw_steps(report: dict, label: str, path: Path) -> Path:
    """The figure against the number of gates that are gone, each point with the gate that went last; the line is what
    the figure may fall to, the point below it the gate that went back.

    Args:
        report: of ``drop_gates``; label: what the figure is called.
    """
    steps, before = report["steps"], report["before"]
    values = [before["value"], *(step["value"] for step in steps)]
    figure = Figure(figsize=(max(6.4, 0.45 * len(values)), 3.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    axes.plot(values, color=COLOURS[0], linewidth=1.6, marker="o", markersize=4)
    if not steps[-1]["dropped"]:
        axes.plot(len(steps), values[-1], "o", color=COLOURS[3], markersize=6)
    least = before["value"] - report["allowed_fall"]
    if max(values) - least < 3 * max(max(values) - min(values), 1):  # else the curve would be flat above it
        axes.axhline(least, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(f"{least:.2f}", (0, least), (2, 3), textcoords="offset points", fontsize=7, color=MUTED)
    for number, step in enumerate(steps, 1):
        axes.annotate(
            step["gate"], (number, values[number]), (0, 7), textcoords="offset points", fontsize=6, color=MUTED,
            rotation=60, rotation_mode="anchor",
        )  # fmt: skip
    axes.margins(x=0.04, y=0.25)
    axes.set_title("Gates dropped, the most constant first", loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel("gates dropped", fontsize=9, color=MUTED)
    axes.set_ylabel(f"{label}, %", fontsize=9, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    return write_figure(figure, path)


def draw_figures(report: dict, label: str, path: Path) -> Path:
    """The figure of the whole network, of the cut one, and of what was trained of it, with their standard errors.

    Args:
        report: of ``prune_and_train``; label: what the figure is called.
    """
    bars = {"before": report["before"], "cut": report["after"]}
    if "fine_tuned" in report:
        bars["fine-tuned"] = report["fine_tuned"]
    if "from_scratch" in report:
        bars["from scratch"] = report["from_scratch"]
    figure = Figure(figsize=(6.4, 3.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    values = [score["value"] for score in bars.values()]
    errors = [score["standard_error"] for score in bars.values()]
    drawn = axes.bar(list(bars), values, yerr=errors, width=0.6, color=COLOURS[0], ecolor=INK, capsize=3)
    axes.bar_label(drawn, [f"{value:.2f}" for value in values], padding=3, fontsize=8, color=INK)
    axes.margins(y=0.15)
    told = report["pruned"]
    title = f"{told['ratio']:g} of the inner channels cut, by {told['importance']}"
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_ylabel(f"{label}, %", fontsize=9, color=MUTED)
    return write_figure(figure, path)


def draw_units(told: dict, path: Path) -> Path:
    """The hidden units of every gate by depth, before and after, with C over what is left above each.

    Args:
        told: of ``engine.slim.ratios.ratios``.
    """
    gates = told["gates"]
    places = range(len(gates))
    figure = Figure(figsize=(max(6.4, 0.5 * len(gates)), 3.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    axes.bar(places, [gate["before"] for gate in gates], color=MUTED, alpha=0.35, width=0.8, label="before")
    axes.bar(places, [gate["after"] for gate in gates], color=COLOURS[0], width=0.8, label="after")
    for place, gate in zip(places, gates, strict=True):
        axes.annotate(
            f"{gate['reduction']:.3g}", (place, gate["after"]), (0, 2), textcoords="offset points", fontsize=7,
            color=INK, ha="center",
        )  # fmt: skip
    axes.set_xticks(places, [gate["name"] for gate in gates], fontsize=6, rotation=60, ha="right")
    axes.set_title("Hidden units of the gates; above, C / units", loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_ylabel("hidden units", fontsize=9, color=MUTED)
    axes.legend(frameon=False, fontsize=8)
    return write_figure(figure, path)
