"""A prediction drawn: the class activation map over the picture, and bars for the likeliest classes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np

from classification.predict.predictor import Prediction
from engine.predict.text import MIN_SIDE, enlarged, letters, shown_name, with_heading

OPACITY = 0.6  # of the map where it is strongest
MIN_STRENGTH = 0.15  # share of the strongest activation under which nothing is shown: it is everywhere
STRIP = 256  # rows at a time: a photograph of 50 megapixels would take gigabytes otherwise
UNSEEN = 0.45  # brightness of what lies outside of the crop
INK, PAPER, BAR = (34, 34, 40), (255, 255, 255), (196, 214, 232)
GROUP_COLOURS = ((176, 98, 44), (40, 112, 84), (60, 90, 150), (130, 70, 130))


def draw_prediction(image: np.ndarray, prediction: Prediction, classes: Sequence[str]) -> np.ndarray:
    """The picture with the map, over a panel with the likeliest classes and the likeliest of their groups.

    image: (H, W, 3) RGB uint8; classes: the names of all classes. Returns (H', W', 3) RGB uint8, the picture enlarged
    if it is small. Raises ValueError for something else than a picture.
    """
    picture = _widened(draw_activation(image, prediction))
    return np.concatenate([picture, _panel(prediction, classes, *picture.shape[:2])])


def draw_comparison(image: np.ndarray, prediction: Prediction, classes: Sequence[str], label: int | None) -> np.ndarray:
    """On the left the picture under its true class (`label`, an index; None: unknown), on the right the prediction
    with the map; below both the panel. As `draw_prediction` otherwise."""
    map_picture = draw_activation(image, prediction)
    plain = _widened(cv2.resize(image, map_picture.shape[1::-1], interpolation=cv2.INTER_CUBIC))
    map_picture = _widened(map_picture)
    first, share = int(prediction.classes[0]), prediction.probabilities[0]
    truth = "no label" if label is None else f"truth: {shown_name(classes, label)}"
    mark = "" if label is None else " ✓" if first == label else " ✗"
    left = with_heading(plain, truth)
    right = with_heading(map_picture, f"{shown_name(classes, first)} {100 * share:.0f} %{mark}")
    gap = np.full((left.shape[0], max(4, left.shape[1] // 80), 3), 255, np.uint8)
    both = np.concatenate([left, gap, right], axis=1)
    return np.concatenate([both, _panel(prediction, classes, plain.shape[0], both.shape[1])])


def draw_activation(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """The picture with the class activation map of the first class over the part that the network saw; the rest is
    darkened.

    The colours are inferno's, whose lightness grows evenly, and the more a place speaks for the class, the more they
    cover; where it says little or speaks against the class, the picture stays as it is. The strongest place has full
    colour in every picture, so maps of two pictures do not compare in strength. image: (H, W, 3) RGB uint8; returns
    the same, enlarged if it is small.
    """
    image, factor = enlarged(image)
    activation = prediction.activation(*image.shape[:2], scale=factor)
    strongest, colours = max(float(prediction.cam.max()), 1e-12), _inferno()
    drawn = np.empty_like(image)
    for top in range(0, len(image), STRIP):
        rows, strength = image[top : top + STRIP], activation[top : top + STRIP] / strongest
        seen = ~np.isnan(strength)[..., None]
        strength = np.clip(np.nan_to_num(strength), 0, 1)
        # From inferno's purple on: its first quarter is near black, and would darken what it should point out.
        tint = colours[(64 + strength * 191).astype(np.uint8)]
        share = (OPACITY * np.clip((strength - MIN_STRENGTH) / (1 - MIN_STRENGTH), 0, 1))[..., None]
        light = np.where(seen, np.float32(1), np.float32(UNSEEN))
        drawn[top : top + STRIP] = (rows * (light - light * share) + tint * share).round()
    return drawn


def _widened(picture: np.ndarray) -> np.ndarray:
    """The same where it is wide enough for names, else in the middle of a sheet that is."""
    missing = max(MIN_SIDE - picture.shape[1], 0)
    left, right = missing // 2, missing - missing // 2
    return cv2.copyMakeBorder(picture, 0, 0, left, right, cv2.BORDER_CONSTANT, value=PAPER) if missing else picture


def _inferno() -> np.ndarray:
    """(256, 3) RGB uint8, dark to light."""
    return (matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def _panel(prediction: Prediction, classes: Sequence[str], picture_height: int, width: int) -> np.ndarray:
    """A row for the likeliest group and one for each class, on white: name, percentage, and behind them a bar."""
    size = int(max(12, min(picture_height / 24, width / 26)))
    row = letters("Ag", size).shape[0] + max(2, size // 5)
    rows = []
    if (group := prediction.group) is not None:
        colour = GROUP_COLOURS[list(prediction.groups).index(group) % len(GROUP_COLOURS)]
        rows.append((group, prediction.groups[group], colour, None))
    for index, share in zip(prediction.classes, prediction.probabilities, strict=True):
        rows.append((shown_name(classes, int(index)), float(share), INK, BAR))
    sheet = np.full((row * len(rows) + size, width, 3), PAPER, np.uint8)
    for number, (name, share, colour, bar) in enumerate(rows):
        top, edge = size // 2 + number * row, max(2, size // 4)
        if bar is not None:
            length = round(share * (width - 2 * edge))
            sheet[top + 1 : top + row - 1, edge : edge + length] = bar
        number_letters = letters(f"{100 * share:.1f} %", size)
        _write(sheet, number_letters, top, width - edge - number_letters.shape[1], colour)
        _write(sheet, _fitting(name, size, width - 3 * edge - number_letters.shape[1]), top, edge, colour)
    return sheet


def _fitting(name: str, size: int, width: int) -> np.ndarray:
    """The letters of a name, cut to what fits into `width`."""
    for length in range(len(name), 0, -1):
        form = letters(name if length == len(name) else name[:length] + "…", size)
        if form.shape[1] <= width:
            return form
    return letters("…", size)[:, : max(width, 1)]


def _write(sheet: np.ndarray, form: np.ndarray, top: int, left: int, colour) -> None:
    place = sheet[top : top + form.shape[0], max(left, 0) : max(left, 0) + form.shape[1]]
    share = form[: place.shape[0], : place.shape[1], None] / 255.0
    place[:] = (place * (1 - share) + np.array(colour) * share).round().astype(np.uint8)
