"""A picture of the classes that are most often taken for each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from engine.fonts import plot_texts
from engine.predict.text import shown_name
from engine.report.plots import COLOURS, DPI, INK, MUTED, write_figure

MAX_CLASSES = 16  # more numbers than this cannot be read on a page
MAX_NAME_LENGTH = 30
RIGHT, WRONG, ELSEWHERE, EMPTY = COLOURS[0], COLOURS[1], MUTED, "#f4f5f7"


def most_confused_classes(counts: np.ndarray, max_classes: int = MAX_CLASSES) -> list[int]:
    """The classes between which most mistakes happen, those confused with each other side by side.

    Pairs are taken from the one with most mistakes, both directions together, until there are enough classes; where
    there are not enough mistakes, the classes of lowest accuracy follow. Classes without images are left out.

    Args:
        counts: (K, K + 1), see ``metrics.confusion_counts``.

    Returns:
        at most ``max_classes`` class indices.
    """
    of_class = counts.sum(axis=1)
    mutual = counts[:, :-1] + counts[:, :-1].T
    rows, columns = np.triu_indices(len(counts), 1)
    order = np.argsort(-mutual[rows, columns], kind="stable")
    accuracy = counts.diagonal() / np.maximum(of_class, 1)
    candidates = [c for i in order if mutual[rows[i], columns[i]] for c in (rows[i], columns[i])]
    candidates += np.argsort(accuracy, kind="stable").tolist()
    chosen = list(dict.fromkeys(int(c) for c in candidates if of_class[c]))[:max_classes]
    beside = chosen[:1]
    while len(beside) < len(chosen):
        left = [c for c in chosen if c not in beside]
        beside.append(max(left, key=lambda c: mutual[beside[-1], c]))  # the first of equals
    return beside


def confusion_shares(counts: np.ndarray, shown: Sequence[int]) -> np.ndarray:
    """What became of the images of some classes, in percent of each class's images.

    Args:
        counts: (K, K + 1), see ``metrics.confusion_counts``.
        shown: n indices of classes with images.

    Returns:
        (n, n + 1): a row a class, a column a prediction, and in the last one all other predictions and the images
        that could not be read. Rows sum to 100.
    """
    of_class = counts.sum(axis=1)[shown]
    inside = counts[np.ix_(shown, shown)]
    return 100 * np.column_stack([inside, of_class - inside.sum(axis=1)]) / of_class[:, None]


def plot_confusion(
    counts: np.ndarray, classes: Sequence[str], path: str | Path, max_classes: int = MAX_CLASSES
) -> Path | None:
    """Draw ``confusion_shares`` of the ``most_confused_classes``, with a number in each cell.

    Args:
        counts: (K, K + 1), see ``metrics.confusion_counts``.
        classes: the K names.
        path: the PNG file to write.
        max_classes: how many classes to show.

    Returns:
        the path, or None (and no file) if there are no images.
    """
    shown = most_confused_classes(counts, max_classes)
    if not shown:
        return None
    percent = confusion_shares(counts, shown)
    if not percent[:, -1].any():
        percent = percent[:, :-1]
    size, width = percent.shape
    colours = _colours(percent)
    figure = Figure(figsize=(3.2 + 0.5 * width, 2.6 + 0.36 * size), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    for row, column in np.ndindex(percent.shape):
        # What contrasts more with the cell: at 0.22 white and INK do so alike (WCAG 2's contrast ratio).
        ink = "white" if _luminance(colours[row, column]) < 0.22 else INK
        weight = "bold" if row == column else "normal"
        axes.text(
            column, row, _shown(percent[row, column]), ha="center", va="center", fontsize=8, color=ink, weight=weight
        )
    names, font = plot_texts(_short(shown_name(classes, index)) for index in shown)
    style = {"fontsize": 8.5, "color": INK, **font}
    axes.set_yticks(range(size), names, **style)
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(width), [*names, "any other"][:width], **style, **slanted)
    axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("prediction", fontsize=9, color=MUTED)
    axes.set_ylabel("truth", fontsize=9, color=MUTED)
    what = f"The {size} most confused of {len(classes)} classes" if size < len(classes) else "Confusion"
    axes.set_title(f"{what}: percent of each class's images", loc="left", fontsize=11, color=INK, fontweight="bold")
    return write_figure(figure, path)


def _colours(percent: np.ndarray) -> np.ndarray:
    """(n, n or n + 1, 3) in 0..1: the diagonal in one colour, mistakes in another, the last column in a third; the
    darker the more, mistakes against the largest one, which would be pale against 100 percent."""
    size = len(percent)
    ink, strength = np.empty((*percent.shape, 3)), percent / 100
    ink[:], ink[:, size:] = to_rgb(WRONG), to_rgb(ELSEWHERE)
    ink[np.arange(size), np.arange(size)] = to_rgb(RIGHT)
    mistakes = ~np.eye(*percent.shape, dtype=bool)
    mistakes[:, size:] = False
    strength[mistakes] /= strength[mistakes].max(initial=1e-9)
    empty = np.array(to_rgb(EMPTY))
    return empty + strength[..., None] * (ink - empty)


def _luminance(colour: np.ndarray) -> float:
    """Relative luminance, 0..1, of an sRGB colour (WCAG 2)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def _shown(percent: float) -> str:
    if percent == 0:
        return ""
    return f"{percent:.0f}" if percent >= 0.5 else "<1"


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
