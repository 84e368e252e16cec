"""Boxes, names, scores and masks drawn on a picture, readable at any image size."""

import colorsys

import cv2
import numpy as np

from engine.predict.text import (
    MIN_TEXT_SIZE,
    checked_picture,
    enlarged,
    letters,
    line_width,
    shown_name,
    text_size,
    with_heading,
)

__all__ = ["class_colour", "draw_predictions", "draw_detections", "draw_comparison"]

MASK_OPACITY = 0.4


def class_colour(index):
    """The colour of class `index` as (R, G, B), 0..255: always the same, and unlike its neighbours' colours.

    Hues step by the golden ratio, which keeps any number of them apart; two shades alternate every seven
    classes.
    """
    hue = (0.58 + index * 0.618034) % 1.0
    saturation, value = ((0.80, 0.95), (0.60, 0.78), (0.95, 0.72))[index // 7 % 3]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def draw_predictions(image, boxes, classes, scores, names, masks=None):
    """Draw objects on a copy of `image`.

    image: (H, W, 3) RGB uint8; boxes: (N, 4) x0 y0 x1 y1 in pixels, cut to the picture; classes: (N,) indices
    into `names`; scores: (N,) in 0..1 or None; masks: (N, H, W) bool or None. Boxes with a value that is not
    finite and boxes outside the picture are left out. Returns (H, W, 3) RGB uint8. Raises ValueError if the
    image or the counts do not fit.
    """
    canvas = checked_picture(image).copy()
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    for name, value in (("classes", classes), ("scores", scores), ("masks", masks)):
        if value is not None and len(value) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes but {len(value)} {name}")
    height, width = canvas.shape[:2]
    if masks is not None and len(masks) and np.shape(masks)[1:] != (height, width):
        raise ValueError(f"masks are {np.shape(masks)[1:]}, the image is {(height, width)}: both must be (H, W)")
    line, text = line_width(canvas.shape), text_size(canvas.shape)
    visible = [
        index
        for index, (x0, y0, x1, y1) in enumerate(boxes)
        if np.isfinite(boxes[index]).all() and x1 >= 0 and y1 >= 0 and x0 < width and y0 < height
    ]
    # The surest last, on top of the others.
    order = sorted(visible, key=lambda index: float(scores[index]) if scores is not None else 0.0)
    for index in order:
        if masks is not None:
            _draw_mask(canvas, np.asarray(masks[index]), class_colour(int(classes[index])), line)
    for index in order:
        x0, y0, x1, y1 = _corners(boxes[index], canvas.shape)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), class_colour(int(classes[index])), line)
    taken, labels = [], []
    for index in reversed(order):  # and the surest first to choose a place for its label
        label = int(classes[index])
        score = None if scores is None else float(scores[index])
        forms = _label_forms(shown_name(names, label), score, text, width, height)
        place, alpha = _place(forms, _corners(boxes[index], canvas.shape), canvas.shape, line, taken)
        taken.append((*place, *alpha.shape))
        labels.append((place, alpha, class_colour(label)))
    for place, alpha, colour in reversed(labels):
        _paste_label(canvas, place, alpha, colour)
    return canvas


def draw_comparison(image, truth, predictions, names):
    """Ground truth beside prediction, each under a heading, enlarged if small.

    image: (H, W, 3) RGB uint8; truth, predictions: `Detections`, the truth's scores None. Returns one RGB
    uint8 picture, two pictures wide.
    """
    halves = []
    for title, found in (("ground truth", truth), ("prediction", predictions)):
        drawn = draw_detections(image, found, names)
        halves.append(with_heading(drawn, f"{title}: {len(found)}"))
    gap = np.full((halves[0].shape[0], max(4, halves[0].shape[1] // 80), 3), 255, np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], axis=1)


def draw_detections(image, found, names):
    """`draw_predictions` for `Detections`. image: (H, W, 3) RGB uint8; returns the same, enlarged if it is small."""
    image, factor = enlarged(image)
    masks = found.masks
    if masks is not None and factor > 1:
        size = image.shape[1::-1]  # (width, height), as OpenCV wants it
        masks = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
    return draw_predictions(image, found.boxes * factor, found.classes, found.scores, names, masks)


def _corners(box, shape):
    """The box as pixel indices inside a picture of `shape`. The upper bounds are exclusive coordinates."""
    (x0, y0, x1, y1), (height, width) = box, shape[:2]
    x0, y0 = int(np.clip(round(x0), 0, width - 1)), int(np.clip(round(y0), 0, height - 1))
    return x0, y0, int(np.clip(round(x1) - 1, x0, width - 1)), int(np.clip(round(y1) - 1, y0, height - 1))


def _draw_mask(canvas, mask, colour, line):
    canvas[mask] = ((1 - MASK_OPACITY) * canvas[mask] + MASK_OPACITY * np.array(colour)).round().astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, colour, max(1, line // 2))


def _label_forms(name, score, size, width, height):
    """The label in every form that fits a picture of width x height, best first: letters from `size` down to
    the smallest, and if none fits, without the score, then a shorter name, and at the very last cut off."""
    full = name if score is None else f"{name} {score:.2f}"
    forms = [letters(full, text) for text in sorted({size, (size + MIN_TEXT_SIZE) // 2, MIN_TEXT_SIZE}, reverse=True)]
    fitting = [form for form in forms if form.shape[0] <= height and form.shape[1] <= width]
    if fitting:
        return fitting
    shorter = [
        letters(words, MIN_TEXT_SIZE)
        for words in [name, *(name[:length] + "…" for length in range(min(len(name) - 1, 40), 0, -1))]
    ]
    return [next((form for form in shorter if form.shape[1] <= width), shorter[-1])[:height, :width]]


def _place(forms, corners, shape, line, taken):
    """Choose among the forms of one label: returns its top-left (y, x), inside the picture, and the form.
    Above the box, else below, else inside, in smaller letters rather than over another label (`taken`: y, x,
    height, width); in a crowd, where it covers the least of them."""
    (x0, y0, x1, y1), half, best = corners, line // 2, None
    for form in forms:
        height, width = form.shape
        left, right = x0 - half, x1 + half + 1 - width
        above, below, top, bottom = y0 - half - height, y1 + half + 1, y0 + half + 1, y1 - half - height
        wishes = [(y, x) for y in (above, below, top, bottom, (top + bottom) // 2) for x in (left, right)]
        for y, x in [*wishes, (max(above, 0), left)]:
            if not 0 <= y <= shape[0] - height:
                continue
            place = (y, int(np.clip(x, 0, shape[1] - width)))
            covered = sum(_shared_area((*place, height, width), other) for other in taken)
            if covered == 0:
                return place, form
            if best is None or covered < best[0]:
                best = (covered, place, form)
    return best[1:] if best else ((0, 0), forms[-1])


def _shared_area(a, b):
    height = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    width = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(height, 0) * max(width, 0)


def _paste_label(canvas, place, alpha, colour):
    (y, x), (height, width) = place, alpha.shape
    # Relative luminance (WCAG 2) above 0.18 has more contrast with black than with white.
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    ink = 0 if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18 else 255
    share = alpha[:, :, None] / 255.0
    canvas[y : y + height, x : x + width] = (np.array(colour) * (1 - share) + ink * share).round().astype(np.uint8)
