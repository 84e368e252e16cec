"""The classes that are most often taken for each other, and a picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from engine.fonts import plot_texts
from engine.predict.text import shown_name
from engine.report.plots import COLOURS, DPI, INK, MUTED, write_figure

MAX_PAIRS = 20
MAX_CLASSES = 16  # more numbers than this cannot be read on a page
MAX_NAME_LENGTH = 30
RIGHT, WRONG, ELSEWHERE, EMPTY = COLOURS[0], COLOURS[1], MUTED, "#f4f5f7"


def confused_pairs(counts: np.ndarray, classes: Sequence[str], max_pairs: int = MAX_PAIRS) -> list[dict]:
    """The mistakes made most often.

    Args:
        counts: (K, K + 1), as for ``most_confused_classes``.
        classes: the K names.

    Returns:
        ``{"truth", "predicted", "count", "share"}`` each, the share in percent of the truth's images or objects; most
        frequent first, then by share, then in the order of the classes.
    """
    mistakes = counts[:, :-1] * (1 - np.eye(len(counts), dtype=counts.dtype))
    of_class = counts.sum(axis=1)
    pairs = sorted(
        zip(*(column.tolist() for column in mistakes.nonzero()), strict=True),
        key=lambda pair: (-mistakes[pair], of_class[pair[0]], pair),
    )
    return [
        {
            "truth": classes[truth],
            "predicted": classes[predicted],
            "count": int(mistakes[truth, predicted]),
            "share": 100.0 * float(mistakes[truth, predicted]) / float(of_class[truth]),
        }
        for truth, predicted in pairs[:max_pairs]
    ]


def most_confused_classes(counts: np.ndarray, max_classes: int = MAX_CLASSES) -> list[int]:
    """The classes between which most mistakes happen, those confused with each other side by side.

    Pairs are taken from the one with most mistakes, both directions together, until there are enough classes; where
    there are not enough mistakes, the classes of lowest accuracy follow. Classes without images are left out.

    Args:
        counts: (K, K + 1), how often each class (row) was taken for each (column); in the last column for none of them.

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
        counts: (K, K + 1), how often each class (row) was taken for each (column); in the last column for none of them.
        shown: n indices of classes with images.

    Returns:
        (n, n + 1): a row a class, a column a prediction, and in the last one all other predictions and what has none.
        Rows sum to 100.
    """
    of_class = counts.sum(axis=1)[shown]
    inside = counts[np.ix_(shown, shown)]
    return 100 * np.column_stack([inside, of_class - inside.sum(axis=1)]) / of_class[:, None]


def plot_confusion(
    counts: np.ndarray, classes: Sequence[str], path: str | Path, max_classes: int = MAX_CLASSES
) -> Path | None:
    """Draw ``confusion_shares`` of the ``most_confused_classes``, with a number in each cell.

    Args:
        counts: (K, K + 1), as above.
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
    names = [shown_name(classes, index) for index in shown]
    return _draw(percent, names, [*names, "any other"], _title(shown, classes, "images"), path)


def plot_confusion_with_background(
    counts: np.ndarray, classes: Sequence[str], path: str | Path, max_classes: int = MAX_CLASSES
) -> Path | None:
    """The same of objects, any of which may be taken for background, and background for any.

    Args:
        counts: (K + 1, K + 1), how often each class (row) was taken for each (column); last the background. Its row is
            drawn in percent of all that was found where nothing is.

    Returns:
        the path, or None (and no file) if there are no objects.
    """
    shown = most_confused_classes(counts[:-1], max_classes)
    if not shown:
        return None
    rows = [*shown, len(classes)]
    inside, of_row = counts[np.ix_(rows, rows)], counts.sum(axis=1)[rows]
    others = of_row - inside.sum(axis=1)
    columns = np.column_stack([inside[:, :-1], others, inside[:, -1]])
    columns = 100 * columns / np.maximum(of_row, 1)[:, None]
    names = [shown_name(classes, index) for index in shown]
    title = _title(shown, classes, "objects")
    return _draw(columns, [*names, "background"], [*names, "any other", "background"], title, path)


def _title(shown: Sequence[int], classes: Sequence[str], things: str) -> str:
    fewer = len(shown) < len(classes)
    what = f"The {len(shown)} most confused of {len(classes)} classes" if fewer else "Confusion"
    return f"{what}: percent of each class's {things}"


def _draw(percent: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, path: str | Path) -> Path:
    """The table of percentages, (R, C), under the names of its rows and, as many as there are, its columns; what the
    first of both have in common is right."""
    height, width = percent.shape
    classes = sum(row == column for row, column in zip(rows, columns, strict=False))
    colours = _colours(percent, classes)
    figure = Figure(figsize=(3.2 + 0.5 * width, 2.6 + 0.36 * height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    for row, column in np.ndindex(percent.shape):
        # What contrasts more with the cell: at 0.22 white and INK do so alike (WCAG 2's contrast ratio).
        ink = "white" if _luminance(colours[row, column]) < 0.22 else INK
        weight = "bold" if row == column < classes else "normal"
        axes.text(
            column, row, _shown(percent[row, column]), ha="center", va="center", fontsize=8, color=ink, weight=weight
        )
    texts, font = plot_texts(_short(name) for name in [*rows, *columns])
    style = {"fontsize": 8.5, "color": INK, **font}
    axes.set_yticks(range(height), texts[:height], **style)
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(width), texts[height:][:width], **style, **slanted)
    axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(height + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("prediction", fontsize=9, color=MUTED)
    axes.set_ylabel("truth", fontsize=9, color=MUTED)
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    return write_figure(figure, path)


def _colours(percent: np.ndarray, size: int) -> np.ndarray:
    """(R, C, 3) in 0..1: the diagonal of the first ``size`` rows and columns in one colour, mistakes in another, the
    columns behind in a third; the darker the more, mistakes against the largest one, which would be pale against 100
    percent."""
    ink, strength = np.empty((*percent.shape, 3)), percent / 100
    ink[:], ink[:, size:] = to_rgb(WRONG), to_rgb(ELSEWHERE)
    ink[np.arange(size), np.arange(size)] = to_rgb(RIGHT)
    mistakes = np.ones(percent.shape, bool)
    mistakes[np.arange(size), np.arange(size)] = False
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
