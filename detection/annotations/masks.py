"""Segmentations in COCO's three forms: polygons, and run lengths as numbers or compressed.

All that is handed to pycocotools' C code passes here first, which fills masks from memory that nobody wrote where run
lengths end too early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detection.annotations.values import is_finite, is_size, shown

MIN_NUMBERS = 6  # x and y of three points
MAX_GROUPS = 7  # of 5 bits, in a number of 32
MAX_PIXELS = 2**32 - 1  # of a mask: pycocotools counts in 32 bits
MAX_COORDINATE = 1e6
"""Pixels from the image's corner to a polygon's point: pycocotools walks every one of them."""


class BadMask(ValueError):
    """What keeps a segmentation from being a mask, in words that can follow a colon."""


def read_mask(shape: Any, height: int, width: int) -> list[list[float]] | dict:
    """A segmentation as Detectron2's mapper takes it, as its `load_coco_json` reads it.

    Args:
        height, width: of its image, in pixels.

    Returns:
        the polygons that have an area (an even count of at least 6 floats: x1, y1, x2, y2, ...), without the others,
        or compressed run lengths {"size": [height, width], "counts": bytes}.

    Raises:
        BadMask: nothing is left of it, or its run lengths are not those of `height` x `width` pixels.
    """
    if isinstance(shape, dict):
        mask = compress(shape, height, width)
        if pixels_of([mask["counts"]])[0] != height * width:
            raise BadMask(f"damaged run lengths: they do not cover the {height * width} pixels of the image")
        return mask
    # As floats, since Detectron2 cuts the fractions off whole numbers that it resizes.
    usable = [list(map(float, polygon)) for polygon in polygons(shape) if is_polygon(polygon)]
    if not usable:
        numbers = len(shape[0]) if shape else 0
        raise BadMask(f"a polygon of {numbers} numbers: at least 6 and an even count are needed")
    return usable


def is_polygon(numbers: Sequence[float]) -> bool:
    """Whether x1, y1, x2, y2, ... are three points or more. Detectron2 dies of others, and leaves them out."""
    return len(numbers) >= MIN_NUMBERS and len(numbers) % 2 == 0


def polygons(shape: Any) -> list[list[float]]:
    """`shape` itself, if it is a list of lists of numbers, of whatever length.

    Raises:
        BadMask: it is something else, or a number is not finite or far outside of any image.
    """
    if not isinstance(shape, list | tuple) or not all(isinstance(one, list | tuple | np.ndarray) for one in shape):
        raise BadMask(f"{shown(shape)} is not a list of polygons [[x1, y1, x2, y2, ...]]")
    for numbers in shape:
        try:
            # One sum is much faster than a question a number; not finite or no number in it is not finite either.
            finite = math.isfinite(sum(numbers))
        except (TypeError, OverflowError):
            finite = False
        if not finite:
            raise BadMask("a polygon holds something that is not a finite number")
        if len(numbers) and max(-min(numbers), max(numbers)) > MAX_COORDINATE:
            raise BadMask(f"a polygon reaches over {MAX_COORDINATE:g} pixels outside of its image")
    return shape


def compress(shape: dict, height: int, width: int) -> dict:
    """Run lengths in either form as compressed ones, {"size": [height, width], "counts": bytes}.

    Args:
        height, width: of its image in pixels; 0 for unknown, when the mask's own size counts.

    Raises:
        BadMask: no run lengths, or of another size. Whether compressed ones are whole is for `pixels_of` to say.
    """
    counts, size = shape.get("counts"), shape.get("size")
    if isinstance(counts, np.ndarray):
        counts = counts.tolist()
    if not counts or not isinstance(counts, str | bytes | list | tuple):
        raise BadMask("run lengths without `counts`")
    if not isinstance(size, list | tuple | np.ndarray) or len(size) != 2 or not all(map(is_size, size)):
        raise BadMask(f"run lengths of size {shown(size)}, which is not [height, width]")
    size = [int(side) for side in size]
    if height and size != [height, width]:
        raise BadMask(f"run lengths of size {size}, image [{height}, {width}] (height, width): of a resized one?")
    if size[0] * size[1] > MAX_PIXELS:
        raise BadMask(f"run lengths of size {size}, over {MAX_PIXELS} pixels")
    if isinstance(counts, str | bytes):
        counts = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
        return {"size": size, "counts": counts}
    if not all(is_finite(run) and run >= 0 and run == int(run) for run in counts):
        raise BadMask("run lengths that are not whole numbers of pixels, 0 or more")
    runs = [int(run) for run in counts]  # whose sum is exact and finite; that of floats need not be
    if sum(runs) != size[0] * size[1]:
        raise BadMask(f"run lengths of {shown(sum(runs))} pixels, image {size[0] * size[1]}")
    return coco_mask.frPyObjects({"size": size, "counts": runs}, *size)


def pixels_of(counts: Sequence[bytes]) -> np.ndarray:
    """How many pixels each of N compressed run lengths covers, (N,) int64; -1 where they are damaged.

    Each run is written as its difference to the run before the last one, in groups of 5 bits, lowest first, each a
    character from "0" on: 32 says that another group follows, 16 in the last one that the number is negative
    (`rleFrString` of pycocotools' maskApi.c). All are read at once, since there may be half a million.
    """
    lengths = np.array([len(one) for one in counts], dtype=np.int64)
    pixels = np.full(len(lengths), -1, dtype=np.int64)
    full = np.flatnonzero(lengths)
    if not len(full):
        return pixels
    group = np.frombuffer(b"".join(counts), dtype=np.uint8) - np.uint8(48)
    mask_end = np.cumsum(lengths[full])  # of those that are not empty, as all below
    bad = group[mask_end - 1] >= 32  # cut off within a number
    if (group > 63).any():
        bad[np.searchsorted(mask_end, np.flatnonzero(group > 63), side="right")] = True
    ends = group < 32
    ends[mask_end - 1] = True  # so that no number reaches into the next mask

    last = np.flatnonzero(ends)
    first = np.concatenate([[0], last[:-1] + 1])
    size = last - first + 1
    value = (group[first] & 31).astype(np.int64)
    for place in range(1, MAX_GROUPS):
        longer = np.flatnonzero(size > place)
        value[longer] |= (group[first[longer] + place].astype(np.int64) & 31) << (5 * place)
    value -= ((group[last] & 16) >> 4).astype(np.int64) << (5 * np.minimum(size, MAX_GROUPS))
    stop = np.searchsorted(last, mask_end)  # of each mask's runs
    start = np.concatenate([[0], stop[:-1]])
    bad[np.searchsorted(stop, np.flatnonzero(size > MAX_GROUPS), side="right")] = True

    run = _summed_over_one(value, start, stop)
    run[start] = value[start]
    bad[np.searchsorted(stop, np.flatnonzero(run < 0), side="right")] = True
    pixels[full] = np.where(bad, -1, np.add.reduceat(run, start))
    return pixels


def _summed_over_one(value: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """value[i] + value[i - 2] + ..., down to the second or third of each part [start, stop)."""
    pairs = np.zeros((-(-len(value) // 2), 2), dtype=np.int64)
    pairs.ravel()[: len(value)] = value
    total = np.cumsum(pairs, axis=0).ravel()  # over the borders of parts; what lies before a part is taken off again
    before_second = np.where(start > 0, total[start - 1], 0)
    result = total[: len(value)].copy()
    for parity in (0, 1):
        before = np.where(start % 2 == parity, total[start], before_second)
        result[parity::2] -= np.repeat(before, (stop - parity + 1) // 2 - (start - parity + 1) // 2)
    return result
