"""What the gates do, as pictures drawn from the content of ``gates.json`` without a display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from engine.fonts import plot_texts
from engine.gates.account import even
from engine.report.plots import COLOURS, DPI, INK, MUTED, style_axes, write_figure

PANELS, ROWS = 16, 32  # gates and classes of the map, drawn evenly
COLUMNS = 4
DECADES = (-4, 0)  # of the ridges' axis, powers of ten
BINS = 40


def draw_all(content: Mapping, folder: Path) -> dict[str, Path]:
    """Draws all pictures into ``folder``/plots. Returns what each shows → its path, in reading order."""
    gates = content["gates"]
    classes = [number for number, count in enumerate(content["images_of_classes"]) if count]
    plots = Path(folder) / "plots"
    shown = [classes[number] for number in even(len(classes), ROWS)] if classes else []
    panels = [gates[number] for number in even(len(gates), PANELS)]
    of = (
        f"the {len(gates)} gates" if len(panels) == len(gates) else f"{len(panels)} of {len(gates)} gates, evenly drawn"
    )
    by = f"by class ({len(shown)} of {len(classes)})" if len(shown) < len(classes) else "by class" if shown else ""
    return {
        f"The mean gate of each channel {by}: {of}".replace(" :", ":"): draw_map(
            panels, [content["classes"][number] for number in shown], shown, plots / "gates_map.png"
        ),
        "The spread of each channel, gate by gate: how many channels have how much of it": draw_ridges(
            gates, plots / "gates_spread.png"
        ),
        "How many values are saturated, and channels that are always on or off, by depth": draw_saturation(
            gates, content["high"], content["low"], plots / "gates_saturation.png"
        ),
    }


def draw_map(gates: Sequence[Mapping], names: Sequence[str], classes: Sequence[int], path: Path) -> Path:
    """A panel for each gate: classes by channels, the colour is the mean gate. Channels stand in the order of their
    mean over all images; without classes there is one row, of all images.

    Args:
        gates: as ``account`` tells of them.
        names, classes: of the rows: names, and places in ``by_class``.
    """
    columns = min(COLUMNS, len(gates))
    lines = math.ceil(len(gates) / columns)
    rows = max(len(names), 1)
    labels, font = plot_texts(_short(names) or ["all images"])
    figure = Figure(figsize=(1.2 + 2.6 * columns, 0.9 + (0.75 + 0.13 * rows) * lines), dpi=DPI, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    tables = [_table(gate, classes) for gate in gates]
    finite = np.concatenate([table[np.isfinite(table)] for table in tables])
    low, high = min(float(finite.min()), 0.0), max(float(finite.max()), 1.0)
    for panel, gate, table in zip(panels.ravel(), gates, tables, strict=False):
        image = panel.imshow(table, aspect="auto", interpolation="nearest", cmap="viridis", vmin=low, vmax=high)
        panel.set_title(gate["path"], loc="left", fontsize=8, color=INK, fontweight="bold", parse_math=False)
        panel.set_xlabel(_drawn(table.shape[1], gate["channels"]), color=MUTED, fontsize=7)
        panel.set_xticks([])
        panel.tick_params(colors=MUTED, labelsize=6, length=0)
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_yticks(range(rows), labels, color=INK, **font)
    for panel in panels.ravel()[len(gates) :]:
        panel.set_axis_off()
    bar = figure.colorbar(image, ax=panels, shrink=min(1.0, 2 / lines), aspect=25, pad=0.01)
    bar.set_label("mean gate", color=MUTED, fontsize=8)
    bar.ax.tick_params(colors=MUTED, labelsize=7, length=0)
    bar.outline.set_visible(False)
    return write_figure(figure, path)


def _table(gate: Mapping, classes: Sequence[int]) -> np.ndarray:
    """(rows, channels drawn), channels by their mean, the smallest first."""
    channels = np.asarray(gate["by_class"]["channels"])
    overall = np.asarray(gate["by_channel"]["mean"], dtype=float)[channels]
    rows = [gate["by_class"]["mean"][number] for number in classes] or [overall]
    return np.asarray(rows, dtype=float)[:, np.argsort(overall, kind="stable")]


def draw_ridges(gates: Sequence[Mapping], path: Path) -> Path:
    """A ridge for each gate, the first on top: over the size of a channel's spread, how many channels have it; of the
    spread between classes and within, or over all images where there are no classes to compare."""
    kinds = [kind for kind in ("between", "within") if any(gate[kind] is not None for gate in gates)]
    kinds = kinds or ["deviation"]
    words = {"between": "between classes", "within": "within a class", "deviation": "over all images"}
    figure = Figure(figsize=(7.2, 1.1 + 0.3 * len(gates)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    axes.grid(axis="y", visible=False)
    edges = np.linspace(*DECADES, BINS + 1)
    for place, gate in enumerate(gates):
        for number, kind in enumerate(kinds):
            heights = ridge(gate["by_channel"][kind], edges)
            if heights is not None:
                top = 1.6 * heights / max(heights.max(), 1e-9)
                centres, colour = (edges[1:] + edges[:-1]) / 2, COLOURS[number]
                label = words[kind] if place == 0 else None
                axes.fill_between(centres, place, place - top, color=colour, alpha=0.35, linewidth=0, zorder=place)
                axes.plot(centres, place - top, color=colour, linewidth=1, zorder=place, label=label)
    labels, font = plot_texts([gate["path"] for gate in gates])
    axes.set_yticks(range(len(gates)), labels, color=INK, **font)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_ylim(len(gates) - 0.5, -1.8)
    axes.set_xlim(*DECADES)
    decades = range(DECADES[0], DECADES[1] + 1)
    axes.set_xticks(decades, [f"≤ {10.0 ** DECADES[0]:g}", *(f"{10.0**power:g}" for power in decades[1:])])
    axes.set_xlabel("a channel's standard deviation, in units of the gate", color=MUTED, fontsize=8)
    _legend(axes, len(kinds))
    return write_figure(figure, path)


def ridge(values: Sequence[float | None], edges: np.ndarray) -> np.ndarray | None:
    """How many values lie in each bin of their logarithm to base 10, smoothed over three bins, as shares; those below
    the first edge count in the first bin, those above the last in the last. None where there is no value."""
    found = np.asarray([value for value in values if value is not None], dtype=float)
    if not len(found):
        return None
    logarithms = np.log10(np.maximum(found, 10.0 ** edges[0])).clip(edges[0], edges[-1])
    counts = np.histogram(logarithms, edges)[0] / len(found)
    return np.convolve(counts, [0.25, 0.5, 0.25], "same")


def draw_saturation(gates: Sequence[Mapping], high: float, low: float, path: Path) -> Path:
    """Shares in percent over the gates, first to last: of values above and below the thresholds, and of channels that
    are beyond them on every image."""
    figure = Figure(figsize=(max(6.4, 1.6 + 0.24 * len(gates)), 3.8), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    x = np.arange(len(gates))
    for number, (values, channels, words) in enumerate(
        (("above", "always_on", f"above {high}"), ("below", "always_off", f"below {low}"))
    ):
        share = [100 * gate[values] for gate in gates]
        always = [100 * len(gate[channels]) / gate["channels"] for gate in gates]
        axes.plot(x, share, "o-", color=COLOURS[number], markersize=4, linewidth=1.6, label=f"values {words}")
        axes.plot(x, always, "s--", color=COLOURS[number], markersize=3, linewidth=1, alpha=0.7,
                  label=f"channels always {words}")  # fmt: skip
    labels, font = plot_texts([gate["path"] for gate in gates])
    axes.set_xticks(x, labels, rotation=90, color=INK, **font)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylabel("percent", color=MUTED, fontsize=8)
    axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1.0))
    _legend(axes, 2)
    return write_figure(figure, path)


def _legend(axes, columns: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=8, labelcolor=INK)


def _drawn(shown: int, channels: int) -> str:
    return f"{channels} channels" if shown == channels else f"{shown} of {channels} channels"


def _short(names: Sequence[str], length: int = 22) -> list[str]:
    return [name if len(name) <= length else f"{name[: length - 1]}…" for name in names]
