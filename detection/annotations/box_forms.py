"""Whether the boxes of a whole file are something else than x, y, width, height in pixels."""

from __future__ import annotations

import numpy as np

MIN_BOXES = 4  # fewer can look like anything
FAR_OUTSIDE = 0.1  # of the image's side: more than careless drawing
MIN_SHARE_OUTSIDE, MIN_OUTSIDE = 0.03, 2  # of all boxes, and how many

FORMS = {
    "fractions": "all numbers of all boxes are in 0..1: are they fractions of the image's size? COCO's are in pixels",
    "corners": "boxes reach far outside of their images as x, y, width, height, and all fit as x1, y1, x2, y2",
    "centres": "boxes reach far outside of their images as x, y, width, height, and all fit with x and y as their "
    "centre; COCO's x and y are the left upper corner",
}
"""What the boxes of a file look like: what a message says of it."""


def other_form(boxes: np.ndarray, sizes: np.ndarray) -> str:
    """The key of `FORMS` that fits all boxes better than x, y, width, height does; "" for none.

    Corners and centres are told from boxes that were drawn carelessly: three of a hundred boxes, two at least, reach
    outside by a tenth of the image, and in the other reading every box lies in its image.

    Args:
        boxes: (N, 4), the four numbers of each.
        sizes: (N, 2) height, width of each one's image in pixels; 0 where it is unknown.
    """
    if not len(boxes):
        return ""
    end, side = boxes[:, :2] + boxes[:, 2:], sizes[:, ::-1]
    known = side.min(axis=1) > 0
    if boxes.max() <= 1.01:
        small = boxes.min() >= 0 and boxes[:, 2:].max() > 0 and (side[known] > 2).all()
        return "fractions" if small else ""
    far = known & (end > (1 + FAR_OUTSIDE) * side).any(axis=1)
    if known.sum() < MIN_BOXES or far.sum() < max(MIN_SHARE_OUTSIDE * known.sum(), MIN_OUTSIDE):
        return ""
    side, corner, extent = side[known], boxes[known, :2], boxes[known, 2:]
    if (corner >= -1).all() and (extent > corner).all() and (extent <= side + 1).all():
        return "corners"
    half = extent / 2
    if (half >= 0).all() and (corner - half >= -1).all() and (corner + half <= side + 1).all():
        return "centres"
    return ""
