"""Draws one scene of coloured shapes on a textured background, with the exact visible mask of each shape.

Everything is computed in integers from a generator whose stream is frozen (numpy's RandomState, NEP 19), so a
scene has the same pixels on every machine: no sine of a maths library, no antialiasing of a drawing library
takes part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNIT = 4096  # outlines are in 1/4096 of the radius
FINE = 256  # positions are in 1/256 pixel
SAMPLES = 4  # a pixel is sampled at 4 x 4 points

OUTLINES: dict[str, tuple[tuple[int, int], ...] | None] = {
    "circle": None,
    "square": ((-2896, -2896), (2896, -2896), (2896, 2896), (-2896, 2896)),
    "triangle": ((0, -4096), (3547, 2048), (-3547, 2048)),
    # Outer points at the radius, inner ones at 0.45 of it.
    "star": (
        (0, -4096), (1083, -1491), (3896, -1266), (1753, 570), (2408, 3314),
        (0, 1843), (-2408, 3314), (-1753, 570), (-3896, -1266), (-1083, -1491),
    ),
    # Arms of 0.6 of the radius in width, their corners at the radius.
    "cross": (
        (-1229, -3891), (1229, -3891), (1229, -1229), (3891, -1229), (3891, 1229), (1229, 1229),
        (1229, 3891), (-1229, 3891), (-1229, 1229), (-3891, 1229), (-3891, -1229), (-1229, -1229),
    ),
}  # fmt: skip

RADIUS = (80, 220)  # smallest and largest, in thousandths of the image's side
OBJECTS = (3, 8)  # fewest and most
MIN_VISIBLE = 60  # percent of an object's own pixels that later ones must leave in sight
MAX_ATTEMPTS = 12


@dataclass
class Shape:
    """One object: its class name, the (H, W) bool mask of its pixels in sight, and how many it has in all."""

    name: str
    mask: np.ndarray
    pixels: int


def draw_scene(random: np.random.RandomState, size: int) -> tuple[np.ndarray, list[Shape]]:
    """A scene of some shapes (OBJECTS says how many), of which later ones may hide parts of earlier ones.

    A shape lies inside the image, in a size within RADIUS, at any angle. A placement is drawn again if it
    would leave less than MIN_VISIBLE of any shape's pixels in sight, or leave one in pieces or with a hole, so
    that every shape has one outline; after MAX_ATTEMPTS tries the shape is left out.

    Args:
        random: the source of everything; the scene depends on its state alone.
        size: side in pixels, at least 64: in smaller images a star has no outline left.

    Returns:
        (size, size, 3) uint8 RGB and the shapes, at least one.
    """
    image, mean = _background(random, size)
    count = int(random.randint(OBJECTS[0], OBJECTS[1] + 1, dtype=np.int64))
    names = list(OUTLINES)
    shapes: list[Shape] = []
    colours = [mean]
    for _ in range(count):
        name = names[int(random.randint(len(names), dtype=np.int64))]
        colour = _colour(random, colours)
        for _ in range(MAX_ATTEMPTS):
            coverage = _draw(random, name, size)
            mask = coverage >= SAMPLES * SAMPLES // 2
            remaining = [shape.mask & ~mask for shape in shapes]
            changed = [
                left for left, shape in zip(remaining, shapes, strict=True) if not np.array_equal(left, shape.mask)
            ]
            if all(
                np.count_nonzero(left) * 100 >= MIN_VISIBLE * shape.pixels
                for left, shape in zip(remaining, shapes, strict=True)
            ) and all(len(outlines(one)) == 1 for one in [mask, *changed]):
                break
        else:
            continue
        for shape, left in zip(shapes, remaining, strict=True):
            shape.mask = left
        shapes.append(Shape(name, mask, int(np.count_nonzero(mask))))
        colours.append(colour)
        _paint(random, image, coverage, colour)
    noise = random.randint(-9, 10, size=image.shape, dtype=np.int64)
    return np.clip(image + noise, 0, 255).astype(np.uint8), shapes


def outlines(mask: np.ndarray) -> list[list[int]]:
    """The closed outlines x1, y1, x2, y2, ... of a mask along pixel edges: of its parts, and of their holes.

    Corners only, clockwise, around holes the other way. Pixel (row, column) covers [column, column + 1] x
    [row, row + 1]. Parts that touch at a corner are separate.
    """
    if not mask.any():
        return []
    window = _window(mask)
    top, left = window[0].start, window[1].start
    mask = mask[window]
    padded = np.pad(mask, 1)
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # (neighbour that must be outside, start and end of the edge relative to the pixel's upper left corner)
    for (dy, dx), (x0, y0), (x1, y1) in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        neighbour = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for row, column in (np.argwhere(mask & ~neighbour) + (top, left)).tolist():
            edges.setdefault((column + x0, row + y0), []).append((column + x1, row + y1))
    result = []
    while edges:
        start = min(edges)
        point, before = start, None
        loop: list[tuple[int, int]] = []
        while True:
            ends = edges[point]
            if len(ends) == 2 and before is not None:
                # Two pixels touch here: turn right, around the same pixel.
                step = (point[0] - before[0], point[1] - before[1])
                turn = (point[0] - step[1], point[1] + step[0])
                ends.sort(key=lambda end, turn=turn: end != turn)
            following = ends.pop(0)
            if not ends:
                del edges[point]
            straight = before is not None and (
                (point[0] - before[0], point[1] - before[1]) == (following[0] - point[0], following[1] - point[1])
            )
            if not straight:
                loop.append(point)
            before, point = point, following
            if point == start:
                break
        result.append([value for corner in loop for value in corner])
    return result


def _background(random: np.random.RandomState, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(size, size, 3) int64 and its mean colour: a gradient between two near colours, and soft blotches."""
    first = random.randint(50, 206, size=3, dtype=np.int64)
    second = first + random.randint(-36, 37, size=3, dtype=np.int64)
    direction = random.randint(-8, 9, size=2, dtype=np.int64)
    steps = np.arange(size, dtype=np.int64)
    ramp = direction[0] * steps[:, None] + direction[1] * steps[None]
    ramp -= ramp.min()
    ramp = ramp * 256 // max(int(ramp.max()), 1)
    image = first + (second - first) * ramp[..., None] // 256
    cells = random.randint(-22, 23, size=(8, 8, 3), dtype=np.int64)
    position = steps * 7 * 64 // size
    cell, part = position // 64, position % 64
    down = cells[cell] * (64 - part)[:, None, None] + cells[cell + 1] * part[:, None, None]
    blotches = down[:, cell] * (64 - part)[None, :, None] + down[:, cell + 1] * part[None, :, None]
    image = image + blotches // 4096
    return image, (first + second) // 2


def _colour(random: np.random.RandomState, others: list[np.ndarray]) -> np.ndarray:
    """A colour that stands out from the background, the first of `others`, and differs from the rest."""
    colour = random.randint(0, 256, size=3, dtype=np.int64)
    for _ in range(40):
        distances = [int(np.abs(colour - other).max()) for other in others]
        if distances[0] >= 90 and min(distances) >= 50:
            break
        colour = random.randint(0, 256, size=3, dtype=np.int64)
    return colour


def _draw(random: np.random.RandomState, name: str, size: int) -> np.ndarray:
    """(size, size) int64: how many of each pixel's 16 points a shape at a random place covers."""
    low, high = (size * FINE * part // 1000 for part in RADIUS)
    radius = int(random.randint(low, high, dtype=np.int64))
    x, y = (int(value) for value in random.randint(radius + FINE, size * FINE - radius - FINE, size=2, dtype=np.int64))
    # Turned by a right triangle with whole sides: cosine a/c, sine b/c, 64 steps a quarter.
    step, quarter = int(random.randint(64, dtype=np.int64)), int(random.randint(4, dtype=np.int64))
    a, b, c = 64 * 64 - step * step, 2 * 64 * step, 64 * 64 + step * step
    for _ in range(quarter):
        a, b = -b, a
    first, last = (y - radius) // FINE, (y + radius) // FINE + 1
    left, right = (x - radius) // FINE, (x + radius) // FINE + 1
    spacing = FINE // SAMPLES
    rows = np.arange(first * FINE + spacing // 2, last * FINE, spacing, dtype=np.int64)
    columns = np.arange(left * FINE + spacing // 2, right * FINE, spacing, dtype=np.int64)
    outline = OUTLINES[name]
    if outline is None:
        inside = (rows[:, None] - y) ** 2 + (columns[None] - x) ** 2 <= radius**2
    else:
        points = [
            (x + (u * a - v * b) * radius // (c * UNIT), y + (u * b + v * a) * radius // (c * UNIT)) for u, v in outline
        ]
        inside = _fill(points, rows, columns)
    counts = inside.reshape(last - first, SAMPLES, right - left, SAMPLES).sum((1, 3))
    coverage = np.zeros((size, size), dtype=np.int64)
    coverage[first:last, left:right] = counts
    return coverage


def _fill(points: list[tuple[int, int]], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(R, C) bool: whether (rows[i], columns[j]) lies in the outline, by the count of edges to its right."""
    inside = np.zeros((len(rows), len(columns)), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        begin, end = np.searchsorted(rows, [y0, y1])
        if begin < end:
            crossing = x0 + (x1 - x0) * (rows[begin:end] - y0) // (y1 - y0)
            inside[begin:end] ^= columns[None] <= crossing[:, None]
    return inside


def _paint(random: np.random.RandomState, image: np.ndarray, coverage: np.ndarray, colour: np.ndarray) -> None:
    """Lays a shape on the image, in a colour that changes a little across it."""
    size = len(image)
    slope = random.randint(-30, 31, size=2, dtype=np.int64)
    window = _window(coverage > 0)
    steps = np.arange(size, dtype=np.int64) - size // 2
    shade = (slope[0] * steps[window[0], None] + slope[1] * steps[None, window[1]]) // size
    full = SAMPLES * SAMPLES
    weight = coverage[window][..., None]
    image[window] = (image[window] * (full - weight) + (colour + shade[..., None]) * weight) // full


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rows and columns that hold every pixel of a mask that has one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
