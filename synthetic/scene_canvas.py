"""What the drawn scenes are drawn with: a canvas, a view in perspective, the light, and what may stand in the way.

Every scene class takes its colours, its light and its obstacles from here, so that none of these tells a class.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

FINE = 2  # scenes are drawn so many times as large, and then reduced: smooth edges
PALETTE = np.array(
    [
        (96, 132, 168), (148, 178, 196), (64, 84, 112), (112, 124, 132), (168, 172, 170), (206, 204, 196),
        (82, 104, 72), (122, 138, 88), (58, 76, 62), (150, 156, 118), (176, 158, 122), (208, 190, 150),
        (134, 104, 78), (96, 74, 60), (164, 122, 92), (186, 146, 120), (152, 92, 80), (196, 160, 152),
        (110, 100, 116), (140, 132, 150), (84, 118, 120), (124, 154, 148), (222, 216, 206), (72, 70, 74),
    ],
    dtype=np.float32,
)  # fmt: skip
# Colour of the whole sky above and at the horizon; walls of rooms may have the same colours.
SKIES = (
    ((72, 122, 184), (186, 210, 226)), ((104, 150, 200), (224, 226, 218)), ((148, 158, 168), (206, 208, 208)),
    ((96, 104, 116), (164, 168, 172)), ((110, 104, 142), (234, 178, 142)), ((58, 66, 104), (206, 134, 112)),
    ((134, 156, 160), (222, 208, 178)), ((34, 42, 68), (92, 96, 122)),
)  # fmt: skip

Plane = Callable[[np.ndarray, np.ndarray], np.ndarray]


def colour(random: np.random.RandomState, spread: float = 14.0) -> np.ndarray:
    """A colour (R, G, B), 0..255, near one of the palette's."""
    return np.clip(PALETTE[random.randint(len(PALETTE))] + random.uniform(-spread, spread, 3), 8, 247)


def shade(colour: np.ndarray, factor: float) -> np.ndarray:
    """A colour in more light (above 1) or less."""
    return np.clip(np.asarray(colour, np.float32) * factor, 0, 255)


def mix(first, second, share: float) -> np.ndarray:
    """A colour between two; `share` 0..1 is that of the second."""
    return np.asarray(first, np.float32) * (1 - share) + np.asarray(second, np.float32) * share


def noise(random: np.random.RandomState, rows: int, columns: int, side: int) -> np.ndarray:
    """(side, side) float32, about -1..1: a smooth random surface with so many hills."""
    grid = random.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)


def ridge(random: np.random.RandomState, columns: int, roughness: float) -> np.ndarray:
    """(columns,) float32, about -1..1: a jagged line, by halving: each halving moves the new points by
    `roughness` (0..1) of what the one before did."""
    line, amplitude = random.uniform(-1, 1, 3), 0.7
    while len(line) < columns:
        middles = (line[1:] + line[:-1]) / 2 + random.uniform(-amplitude, amplitude, len(line) - 1)
        finer = np.empty(2 * len(line) - 1)
        finer[::2], finer[1::2] = line, middles
        line, amplitude = finer, amplitude * roughness
    return line[:columns].astype(np.float32)


class Canvas:
    """A square picture to draw on; points are (x, y) with 0..1 across and down it.

    Attributes:
        pixels: (side, side, 3) RGB uint8.
        x, y: the coordinates of the pixels' centres, (1, side) and (side, 1) float32.
    """

    def __init__(self, side: int):
        self.side = side
        self.pixels = np.zeros((side, side, 3), np.uint8)
        centres = (np.arange(side, dtype=np.float32) + 0.5) / side
        self.x, self.y = centres[None], centres[:, None]

    def fill(self, points, colour) -> None:
        """A polygon, (N, 2)."""
        corners = np.round(np.clip(points, -3, 4) * (self.side * 16)).astype(np.int32)
        cv2.fillPoly(self.pixels, [corners], tuple(map(float, colour)), cv2.LINE_AA, 4)

    def fill_all(self, polygons, colours) -> None:
        """Convex polygons, (N, M, 2), each in its colour, (N, 3), or all in one, (3,)."""
        corners = np.round(np.clip(polygons, -3, 4) * (self.side * 16)).astype(np.int32)
        colours = np.broadcast_to(np.asarray(colours, float), (len(corners), 3)).tolist()
        for polygon, one in zip(corners, colours, strict=True):
            cv2.fillConvexPoly(self.pixels, polygon, one, cv2.LINE_AA, 4)

    def line(self, points, colour, width: float) -> None:
        """A line through the points, (N, 2), `width` in shares of the side."""
        corners = np.round(np.clip(points, -3, 4) * (self.side * 16)).astype(np.int32)
        thickness = max(1, round(width * self.side))
        cv2.polylines(self.pixels, [corners], False, tuple(map(float, colour)), thickness, cv2.LINE_AA, 4)

    def ellipse(self, x: float, y: float, width: float, height: float, colour) -> None:
        """A filled ellipse about (x, y)."""
        axes = (max(1, round(width * self.side * 8)), max(1, round(height * self.side * 8)))
        centre = (round(x * self.side * 16), round(y * self.side * 16))
        cv2.ellipse(self.pixels, centre, axes, 0, 0, 360, tuple(map(float, colour)), -1, cv2.LINE_AA, 4)

    def gradient(self, top, bottom, first: float = 0.0, last: float = 1.0) -> None:
        """Rows from `first` to `last` (0..1) in a colour that changes from `top` to `bottom`."""
        begin, end = int(first * self.side), int(np.ceil(last * self.side))
        share = np.linspace(0, 1, max(end - begin, 1), dtype=np.float32)[:, None, None]
        self.pixels[begin:end] = mix(top, bottom, share)[: self.side - begin].astype(np.uint8)

    def paint(self, mask: np.ndarray, colour, light=None, first: int = 0) -> None:
        """Pixels where `mask` is set, in a colour.

        mask: (rows, side) bool, for the rows from `first` on; light: the same shape, 0..2, what the colour is
        multiplied with at each place, or None.
        """
        rows = self.pixels[first : first + len(mask)]
        if light is None:
            rows[mask] = np.asarray(colour).astype(np.uint8)
            return
        # A table of the colour in 256 degrees of light: several times as fast as arithmetic on three channels.
        degrees = np.arange(256, dtype=np.float32)[:, None] / 128 * np.asarray(colour, np.float32)
        table = np.clip(degrees, 0, 255).astype(np.uint8)[:, None]
        degree = np.clip(light * 128, 0, 255).astype(np.uint8)
        cv2.copyTo(cv2.applyColorMap(degree, table), np.ascontiguousarray(mask).view(np.uint8), rows)

    def blend(self, share: np.ndarray, colour) -> None:
        """`share` (rows, side), 0..1, of a colour over what is in the first so many rows."""
        rows = self.pixels[: len(share)]
        share = np.clip(share, 0, 1)[..., None]
        rows += ((np.asarray(colour, np.float32) - rows) * share).astype(np.int16).astype(np.uint8)


class View:
    """A straight view into a space with walls: everything runs to one vanishing point.

    A place is (u, v, z): u from the left wall (0) to the right one (1), v from the ceiling (0) to the floor
    (1), z the distance, from 1, where the walls stand at `left`, `top`, `right`, `bottom` of the picture.
    """

    def __init__(self, vanishing: tuple[float, float], left: float, top: float, right: float, bottom: float):
        self.vanishing = np.array(vanishing)
        self.near, self.size = np.array([left, top]), np.array([right - left, bottom - top])

    def at(self, u, v, z) -> np.ndarray:
        """(…, 2), the points of the picture where the places (u, v, z) are seen; the three broadcast."""
        u, v, z = np.broadcast_arrays(*(np.asarray(value, float) for value in (u, v, z)))
        near = self.near + np.stack([u, v], -1) * self.size
        return self.vanishing + (near - self.vanishing) / z[..., None]

    def side_wall(self, u: float, z0: float, z1: float, v0: float = 0.0, v1: float = 1.0) -> Plane:
        """The wall at `u` from z0 to z1, v0 to v1, as a plane: (s, t) in 0..1, along and down it → points."""
        return lambda s, t: self.at(u, v0 + np.asarray(t) * (v1 - v0), z0 + np.asarray(s) * (z1 - z0))

    def front(self, z: float, u0: float, u1: float, v0: float, v1: float) -> Plane:
        """What faces the viewer at distance z."""
        return lambda s, t: self.at(u0 + np.asarray(s) * (u1 - u0), v0 + np.asarray(t) * (v1 - v0), z)

    def level(self, v: float, z0: float, z1: float, u0: float = 0.0, u1: float = 1.0) -> Plane:
        """What lies flat at height v; t runs from near (z0) to far."""
        return lambda s, t: self.at(u0 + np.asarray(s) * (u1 - u0), v, z0 + np.asarray(t) * (z1 - z0))

    def box(self, canvas: Canvas, u0, u1, v0, v1, z0, z1, colour, light: float = 0.8) -> None:
        """A box from z0 (near) to z1: its sides and its top where they are seen, and its front."""
        eye = (self.vanishing - self.near) / self.size
        if v0 > eye[1]:
            canvas.fill(quad(self.level(v0, z0, z1, u0, u1)), shade(colour, 1.18))
        if v1 < eye[1]:
            canvas.fill(quad(self.level(v1, z0, z1, u0, u1)), shade(colour, 0.55))
        if u1 < eye[0]:
            canvas.fill(quad(self.side_wall(u1, z0, z1, v0, v1)), shade(colour, light))
        if u0 > eye[0]:
            canvas.fill(quad(self.side_wall(u0, z0, z1, v0, v1)), shade(colour, 1.6 - light))
        canvas.fill(quad(self.front(z0, u0, u1, v0, v1)), colour)


def flat(corners) -> Plane:
    """A plane from its four corners in the picture, clockwise from the upper left."""
    a, b, c, d = (np.asarray(corner, float) for corner in corners)

    def plane(s, t):
        s, t = np.asarray(s, float)[..., None], np.asarray(t, float)[..., None]
        return (a * (1 - s) + b * s) * (1 - t) + (d * (1 - s) + c * s) * t

    return plane


def quad(plane: Plane, s0=0.0, s1=1.0, t0=0.0, t1=1.0) -> np.ndarray:
    """(…, 4, 2): the corners of a rectangle on a plane; the bounds may be arrays."""
    s0, s1, t0, t1 = np.broadcast_arrays(s0, s1, t0, t1)
    return plane(np.stack([s0, s1, s1, s0], -1), np.stack([t0, t0, t1, t1], -1))


def grid(plane: Plane, rows: int, columns: int, gap_s: float = 0.3, gap_t: float = 0.3) -> np.ndarray:
    """(rows · columns, 4, 2): a grid of rectangles on a plane, with gaps (shares of a cell) between them."""
    row, column = (index.ravel() for index in np.mgrid[:rows, :columns])
    s, t = (column + gap_s / 2) / columns, (row + gap_t / 2) / rows
    return quad(plane, s, s + (1 - gap_s) / columns, t, t + (1 - gap_t) / rows)


def obstruct(random: np.random.RandomState, canvas: Canvas) -> None:
    """Something near that hides a part, in a third of the scenes: a person, a pole, a plant."""
    kind = random.randint(9)
    if kind > 2:
        return
    x, tint = random.choice([random.uniform(0.02, 0.3), random.uniform(0.7, 0.98)]), shade(colour(random), 0.55)
    if kind == 0:
        height = random.uniform(0.3, 0.6)
        top, width = random.uniform(0.95, 1.1) - height, height * 0.17
        canvas.ellipse(x, top + 0.07 * height, 0.11 * height, 0.14 * height, shade((196, 156, 130), 0.8))
        sides = [(-0.4, 0.15), (0.4, 0.15), (0.55, 0.55), (0.35, 1.0), (-0.35, 1.0), (-0.55, 0.55)]
        canvas.fill([(x + s * width, top + t * height) for s, t in sides], tint)
    elif kind == 1:
        width = random.uniform(0.015, 0.06)
        canvas.fill([(x - width, -0.1), (x + width, -0.1), (x + width, 1.1), (x - width, 1.1)], tint)
        canvas.fill(
            [(x + width / 2, -0.1), (x + width, -0.1), (x + width, 1.1), (x + width / 2, 1.1)], shade(tint, 0.7)
        )
    else:
        foot, green = random.uniform(0.9, 1.15), shade(mix(tint, (70, 110, 60), 0.6), 0.8)
        for angle in random.uniform(-1.1, 1.1, 9):
            tip = np.array([x + np.sin(angle) * 0.3, foot - np.cos(angle) * random.uniform(0.25, 0.45)])
            across = np.array([np.cos(angle), np.sin(angle)]) * 0.025
            middle = (tip + (x, foot)) / 2
            canvas.fill([(x, foot), middle + across, tip, middle - across], shade(green, random.uniform(0.7, 1.3)))


def develop(random: np.random.RandomState, canvas: Canvas, size: int) -> np.ndarray:
    """The finished picture, (size, size, 3) RGB uint8: seen from another place, reduced, perhaps mirrored, and with the
    light, the colour cast, the contrast, the blur and the noise of a random photograph."""
    side = canvas.side
    # From nearer by up to two thirds, and then not always with what matters in the middle.
    near = 1.03 + min(random.exponential(0.16), 0.65)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), random.normal(0, 2.2), near)
    turn[:, 2] += random.uniform(-0.5, 0.5, 2) * (near - 1.03) * side
    tilted = cv2.warpAffine(canvas.pixels, turn, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    picture = cv2.resize(tilted, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    if random.randint(2):
        picture = picture[:, ::-1]
    # Grain at two scales, as surfaces have it.
    for cells, strength in ((size // 3, 0.035), (9, 0.05)):
        picture = picture * (1 + strength * noise(random, cells, cells, size)[..., None])
    # Light falls in from one side.
    angle, fall = random.uniform(0, 2 * np.pi), random.uniform(0, 0.28)
    centred = np.linspace(-1, 1, size, dtype=np.float32)
    picture = picture * (1 + fall * (np.cos(angle) * centred[None] + np.sin(angle) * centred[:, None]))[..., None]
    grey = picture.mean(-1, keepdims=True)
    picture = grey + (picture - grey) * random.uniform(0.45, 1.25)
    warmth = random.normal(0, 0.07)
    picture = picture * np.array([1 + warmth, 1 + random.normal(0, 0.02), 1 - warmth], np.float32)
    picture = (picture - 110) * random.uniform(0.75, 1.15) + 110 + random.normal(0, 16)
    if random.randint(4) == 0:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.3, 0.8) * size / 128)
    picture = picture + random.normal(0, random.uniform(1.5, 7), (size, size, 1)) + random.normal(0, 2, (size, size, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)
