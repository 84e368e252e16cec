"""Curves of a training run and comparisons between runs, drawn as PNG files without a display."""

import io
import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.fonts import plot_texts
from engine.report.metrics import VALIDATION, evaluations, loss_names, read_metrics, series
from engine.task import TaskInfo
from se_backbones.files import write_atomically

__all__ = [
    "read_metrics",
    "write_training_plots",
    "plot_losses",
    "plot_learning_rate",
    "plot_evaluation",
    "plot_throughput",
    "plot_comparison",
]

INK, MUTED, GRID = "#22262b", "#6b737c", "#e3e6ea"
COLOURS = ("#2b6cb0", "#d97a1f", "#2f9469", "#c2413a", "#7a58a8", "#1f97a6", "#8a6a4c", "#c65b97")
DPI = 160


def write_training_plots(run_dir, task: TaskInfo):
    """Draw the curves of `run_dir`/metrics.jsonl into `run_dir`/plots; returns the paths of those with data,
    in reading order: losses, evaluation, learning rate, throughput; none where there is no log."""
    log, folder = Path(run_dir) / "metrics.jsonl", Path(run_dir) / "plots"
    rows = read_metrics(log) if log.exists() else []
    paths = (
        plot_losses(rows, folder / "losses.png"),
        plot_evaluation(rows, folder / "evaluation.png", task),
        plot_learning_rate(rows, folder / "learning_rate.png"),
        plot_throughput(rows, folder / "throughput.png"),
    )
    return [path for path in paths if path]


def plot_losses(rows, path):
    """Every loss over the iterations, as logged (faint) and smoothed, and the evaluations' total, dashed; iterations
    whose total was not finite are marked on the axis. Returns the path, or None if `rows` (see `read_metrics`) hold
    no loss of the training."""
    names = [name for name in loss_names(rows) if series(rows, name)[0]]
    if not names:
        return None
    figure, axes = _axes("Losses", "loss")
    tops = []
    for index, name in enumerate(names):
        colour, width = (INK, 2.2) if name == "total_loss" else (COLOURS[(index - 1) % len(COLOURS)], 1.5)
        tops.append(_curve(axes, *series(rows, name), colour, name.replace("_", " "), width))
    x, y = series(rows, f"{VALIDATION}/total_loss")
    if x:
        axes.plot(x, y, color=INK, linewidth=1.5, linestyle="--", marker="o", markersize=4, label="validation loss")
        tops.append((min(y), float(np.percentile(y, 95))))
    # One spike would flatten all the rest: the axis ends where the smoothed curves do.
    low, high = min(low for low, _ in tops), max(high for _, high in tops)
    span = high - min(low, 0.0) or 1.0
    axes.set_ylim(min(low, 0.0) - (0.05 * span if low < 0 else 0), high + 0.08 * span)
    broken = [
        row["iteration"]
        for row in rows
        if isinstance(row.get("total_loss"), float) and not math.isfinite(row["total_loss"])
    ]
    if broken:
        axes.plot(
            broken,
            [0.0] * len(broken),
            "x",
            color=COLOURS[3],
            markersize=6,
            clip_on=False,
            zorder=5,
            transform=axes.get_xaxis_transform(),
            label="not finite",
        )
    return _save(figure, axes, path)


def plot_learning_rate(rows, path):
    """The learning rate over the iterations. Returns the path, or None if it was never logged."""
    x, y = series(rows, "lr")
    if not x:
        return None
    figure, axes = _axes("Learning rate", "learning rate")
    axes.plot(x, y, color=COLOURS[0], linewidth=1.8, marker="o" if len(x) == 1 else None)
    axes.set_ylim(bottom=0 if min(y) >= 0 else None)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    return _save(figure, axes, path)


def plot_evaluation(rows, path, task: TaskInfo):
    """The task's main figures of every evaluation in percent over the iterations, the last value in the legend.
    Returns the path, or None if no evaluation was logged."""
    logged = evaluations(rows, task)
    if not logged:
        return None
    one_group = len({group for group, *_ in logged}) == 1
    figure, axes = _axes("Evaluation", "percent")
    for index, (group, name, x, y) in enumerate(logged):
        label = name if one_group else f"{group} {name}"
        axes.plot(
            x,
            y,
            color=COLOURS[index % len(COLOURS)],
            linewidth=1.8,
            marker="o",
            markersize=4,
            label=f"{label}  {y[-1]:.1f}",
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 1.02 * max(rows[-1]["iteration"], 1))  # a first evaluation alone has no span of its own
    return _save(figure, axes, path)


def plot_throughput(rows, path):
    """Training speed in images a second over the iterations. Returns the path, or None if it was never
    logged."""
    x, y = series(rows, "images_per_second")
    if not x:
        return None
    figure, axes = _axes("Throughput", "images / s")
    axes.plot(x, y, color=COLOURS[5], linewidth=1.2, marker="o" if len(x) == 1 else None)
    median = float(np.median(y))
    axes.axhline(median, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=f"median  {median:.3g}")
    axes.set_ylim(0, 1.15 * max(np.percentile(y, 98), median) or 1)
    return _save(figure, axes, path)


def plot_comparison(results, metric, path):
    """One metric of several runs over the iterations.

    results: run's name -> its rows (`read_metrics`); metric: a key, "group/figure" of an evaluation or "total_loss".
    Losses are smoothed, evaluation figures drawn point by point, and the last value stands in the legend. Returns
    the path. Raises ValueError, naming the run, if one of them never logged the metric.
    """
    figure, axes = _axes(metric.replace("/", " ").replace("_", " "), metric.rsplit("/", 1)[-1].replace("_", " "))
    highest, (labels, font) = 0.0, _legend_texts(results)
    for index, (name, rows) in enumerate(results.items()):
        x, y = series(rows, metric)
        if not x:
            raise ValueError(f"cannot compare runs: {name!r} has no finite value of {metric!r} in its metrics")
        colour = COLOURS[index % len(COLOURS)]
        if metric in loss_names(rows):
            highest = max(highest, _curve(axes, x, y, colour, f"{labels[index]}  {smooth(y)[-1]:.3g}", width=1.8)[1])
        else:
            axes.plot(
                x, y, color=colour, linewidth=1.8, marker="o", markersize=4, label=f"{labels[index]}  {y[-1]:.1f}"
            )
    if "/" in metric or highest > 0:
        axes.set_ylim(0, 1.08 * highest or None)
    return _save(figure, axes, path, font)


def smooth(values):
    """Centred moving average over about a twentieth of the values, shorter at the ends: unlike a running
    average it does not lag behind the curve. A median of three goes first, so that a single spike does not
    become a plateau. values: (N,) finite; returns an array (N,); N below 10 comes back unchanged."""
    values = np.asarray(values, dtype=float)
    if len(values) < 10:
        return values
    triples = np.lib.stride_tricks.sliding_window_view(values, 3)
    values = np.median(triples, axis=1)[[0, *range(len(triples)), -1]]
    kernel = np.ones(2 * max(len(values) // 40, 1) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _curve(axes, x, y, colour, label, width):
    """Draw one noisy curve, raw and smoothed; returns the (lowest, highest) value worth showing."""
    smoothed = smooth(y)
    if len(x) >= 10:
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.28)
    axes.plot(x, smoothed, color=colour, linewidth=width, label=label, marker="o" if len(x) == 1 else None)
    return float(smoothed.min()), float(max(smoothed.max(), np.percentile(y, 95)))


def _axes(title, ylabel):
    figure = Figure(figsize=(6.4, 3.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=10)
    axes.set_xlabel("iteration", color=MUTED, fontsize=9)
    axes.set_ylabel(ylabel, color=MUTED, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure, axes


def style_axes(axes):
    """Bare axes with a faint grid, as all pictures here have them."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)


def _legend_texts(names):
    """As `plot_texts`. Matplotlib leaves names that begin with _ out of a legend: they begin with a space."""
    texts, font = plot_texts(names)
    return [f" {text}" if text.startswith("_") else text for text in texts], font


def _set_font(legend, font):
    for text in legend.get_texts():
        text.set(**font)


def _save(figure, axes, path, font=None):
    axes.margins(x=0.02)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, labelcolor=INK)
        _set_font(legend, font or {})
    return write_figure(figure, path)


def write_figure(figure, path):
    """Write a matplotlib figure as PNG, atomically; returns its Path."""
    encoded = io.BytesIO()
    FigureCanvasAgg(figure).print_png(encoded)
    return write_atomically(path, encoded.getvalue())
