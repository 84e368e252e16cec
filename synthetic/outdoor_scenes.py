"""Drawn scenes under the sky: mountain, coast, street and skyscraper. Each may show a little of the others."""

from __future__ import annotations

import numpy as np

from synthetic.landscape import (
    draw_beach,
    draw_ground,
    draw_headland,
    draw_range,
    draw_river,
    draw_rock,
    draw_sky,
    draw_tree,
    draw_water,
    draw_wood,
)
from synthetic.scene_canvas import Canvas, Plane, View, colour, flat, grid, mix, quad, ridge, shade


def draw_mountain(random: np.random.RandomState, canvas: Canvas) -> None:
    """Ranges one behind the other, the highest with snow or rock, and a valley, lake, meadow or wood before
    them."""
    haze = draw_sky(random, canvas)
    base = random.uniform(0.5, 0.72)
    rock = mix(colour(random), (96, 96, 104), 0.4)
    for layer in range(random.randint(2, 4)):
        height = random.uniform(0.28, 0.52) * (1 - 0.22 * layer)
        far = mix(rock, haze, max(0.5 - 0.25 * layer, 0.08))
        draw_range(random, canvas, base + 0.05 * layer, height, far, snow=random.uniform(0, 0.75) - 0.2 * layer)
    ground = mix(colour(random), (98, 112, 72), 0.35)
    edge = base + 0.1 + 0.05 * ridge(random, canvas.side, 0.45)
    kind = random.randint(4)
    draw_ground(random, canvas, edge, ground)
    if kind == 0:
        draw_water(random, canvas, random.uniform(base + 0.12, 0.84), mix(haze, (70, 100, 120), 0.5))
    elif kind == 1:
        draw_river(random, canvas, base + 0.1, mix(haze, (210, 214, 216), 0.5))
    if kind in (1, 2):  # slopes that come in from the sides
        for sign in (-1, 1):
            if random.randint(3):
                x = canvas.x[0] if sign < 0 else 1 - canvas.x[0]
                slope = random.uniform(0.3, 0.7) + random.uniform(0.7, 1.5) * x + 0.04 * ridge(random, canvas.side, 0.6)
                draw_ground(random, canvas, slope, shade(ground, random.uniform(0.55, 0.9)))
    if kind == 3 or random.randint(3) == 0:
        draw_wood(random, canvas, random.uniform(0.8, 0.95), random.randint(8, 26), random.uniform(0.07, 0.2))


def draw_coast(random: np.random.RandomState, canvas: Canvas) -> None:
    """Sea up to a straight horizon, a shore with surf, often a headland with cliffs, rocks, a lighthouse."""
    haze = draw_sky(random, canvas)
    horizon = random.uniform(0.3, 0.58)
    sea = mix(colour(random), (62, 104, 128), 0.45)
    if random.randint(3) == 0:
        draw_range(random, canvas, horizon + 0.01, random.uniform(0.05, 0.14), mix(sea, haze, 0.5), snow=0)
    draw_water(random, canvas, horizon, sea, far=mix(sea, haze, random.uniform(0.1, 0.5)))
    land = mix(colour(random), (150, 130, 100), 0.3)
    has_headland = random.randint(4) > 0
    if has_headland:
        draw_headland(random, canvas, horizon, land)
    if random.randint(5) > 0 or not has_headland:
        draw_beach(random, canvas, horizon, mix(land, (206, 188, 150), random.uniform(0.2, 0.8)))
    for _ in range(random.randint(0, 5)):
        x, y = random.uniform(0, 1), random.uniform(horizon + 0.12, 0.95)
        draw_rock(
            random, canvas, x, y, random.uniform(0.15, 0.45) * (y - horizon), shade(land, random.uniform(0.4, 0.7))
        )


def draw_street(random: np.random.RandomState, canvas: Canvas) -> None:
    """A road between rows of houses that run to one point; cars, lamps, trees, a crossing."""
    haze = draw_sky(random, canvas)
    x, y = random.uniform(0.3, 0.7), random.uniform(0.42, 0.6)
    if random.randint(3) == 0:
        draw_range(random, canvas, y + 0.02, random.uniform(0.08, 0.22), mix(colour(random), haze, 0.5), snow=0.2)
    half, low = random.uniform(0.6, 1.1), random.uniform(0.3, 0.55)
    view = View((x, y), x - half, y - 1.0, x + half, y + low)
    floor = 1.0  # v of the ground; the eye is `low` of the picture's side above it
    paving = mix(colour(random), (128, 126, 124), 0.6)
    canvas.gradient(mix(paving, haze, 0.4), paving, y, 1.0)
    far = random.uniform(6, 14)
    if random.randint(2):
        _house_front(random, canvas, view.front(far, 0, 1, 1 - random.uniform(0.3, 1.1), floor), haze, 0.5)
    asphalt, curb = (
        shade(mix(colour(random, 6), (84, 84, 88), 0.7), random.uniform(0.7, 1.3)),
        random.uniform(0.14, 0.26),
    )
    road = view.level(floor, 0.45, far, curb, 1 - curb)
    canvas.fill(quad(road), asphalt)
    for lane in [0.5] if random.randint(3) else [0.34, 0.66]:
        starts = np.arange(0, 1, 0.06) ** 1.6
        marks = quad(road, lane - 0.012, lane + 0.012, starts, starts + 0.03)
        canvas.fill_all(marks, mix(asphalt, (235, 230, 215), 0.8))
    if random.randint(3) == 0:
        z = random.uniform(1.1, 1.6)
        canvas.fill_all(
            grid(view.level(floor, z, z + 0.35, curb, 1 - curb), 1, 11, 0.5, 0), mix(asphalt, (240, 240, 235), 0.8)
        )
    for u in (0.0, 1.0):
        _row_of_houses(random, canvas, view, u, far, haze)
    things = [(random.uniform(0.9, 6), random.randint(3), random.randint(2)) for _ in range(random.randint(3, 11))]
    for z, kind, right in sorted(things, reverse=True):
        if kind == 0:
            _car(random, canvas, view, z, curb, right)
        elif kind == 1:
            u = 1 - curb * 0.75 if right else curb * 0.75
            foot, head = view.at(u, floor, z), view.at(u, floor - 0.62, z)
            canvas.line([foot, head, view.at(u + (-0.08 if right else 0.08), floor - 0.64, z)], (60, 60, 64), 0.011 / z)
        else:
            u = 1 - curb * 0.5 if right else curb * 0.5
            foot, crown = view.at(u, floor, z), view.at(u, floor - random.uniform(0.35, 0.6), z)
            draw_tree(random, canvas, foot, crown, 0.12 / z)


def draw_skyscraper(random: np.random.RandomState, canvas: Canvas) -> None:
    """One tower above everything, seen from its foot or from afar, with lower houses, trees or water before
    it."""
    haze = draw_sky(random, canvas)
    ground = random.uniform(0.78, 1.02)
    if random.randint(4) == 0:
        draw_range(random, canvas, ground, random.uniform(0.1, 0.28), mix(colour(random), haze, 0.5), snow=0.2)
    for _ in range(random.randint(2, 8)):
        x, width, top = random.uniform(-0.05, 1.05), random.uniform(0.06, 0.16), random.uniform(0.4, 0.72)
        _tower(random, canvas, x, ground, top, width, 0.0, mix(colour(random), haze, 0.45), random.uniform(0.3, 0.7))
    towers = 1 + (random.randint(3) == 0)
    for _ in range(towers):
        x, lean = random.uniform(0.28, 0.72), random.uniform(0, 0.4)
        width, top = random.uniform(0.16, 0.36), random.uniform(-0.08, 0.22)
        _tower(random, canvas, x, ground + 0.05, top, width, lean, colour(random), 0.0)
    kind = random.randint(4)
    if kind == 0:
        draw_water(random, canvas, ground - 0.04, mix(haze, (66, 92, 110), 0.6))
    elif kind == 1:
        draw_wood(random, canvas, ground + 0.03, random.randint(8, 20), random.uniform(0.06, 0.13), round_crowns=True)
    else:
        draw_ground(random, canvas, np.full(canvas.side, ground, np.float32), mix(colour(random), (120, 120, 120), 0.5))
        for x in np.arange(random.uniform(-0.1, 0.1), 1, random.uniform(0.14, 0.3)):
            top, width = ground - random.uniform(0.04, 0.16), random.uniform(0.1, 0.28)
            front = flat([(x, top), (x + width, top), (x + width, ground + 0.05), (x, ground + 0.05)])
            _house_front(random, canvas, front, haze, 0.1, rows=2)


def _house_front(random, canvas, plane: Plane, haze, far, rows=None) -> None:
    """A wall with windows; `far` 0..1 is how much of it is lost in the haze."""
    wall = mix(colour(random), haze, far)
    canvas.fill(quad(plane), wall)
    rows = rows or random.randint(2, 6)
    panes = grid(plane, rows, random.randint(2, 5), random.uniform(0.3, 0.6), random.uniform(0.3, 0.6))
    canvas.fill_all(panes, _panes(random, len(panes), mix(shade(wall, 0.5), haze, far)))


def _panes(random, count, dark) -> np.ndarray:
    """Colours of windows, (count, 3): dark, some with the sky in them, a few lit."""
    kind = random.uniform(0, 1, (count, 1))
    bright = np.where(kind > 0.93, np.array([236, 206, 140]), np.array([178, 196, 208]))
    return np.where(kind > random.uniform(0.6, 1.0), bright, dark)


def _row_of_houses(random, canvas, view: View, u, far, haze) -> None:
    """Houses wall to wall along one side of the road, from afar to here."""
    z = far
    while z > 0.5:
        depth = random.uniform(0.5, 1.3) * (0.5 + 0.35 * z)
        near, top, share = max(z - depth, 0.45), 1 - random.uniform(0.45, 1.5), min(z / far, 1) * 0.45
        wall = mix(colour(random), haze, share)
        outer = u + (0.6 if u > 0.5 else -0.6)
        canvas.fill(quad(view.front(near, min(u, outer), max(u, outer), top, 1)), shade(wall, 0.9))
        plane = view.side_wall(u, near, z, top, 1.0)
        canvas.fill(quad(plane), shade(wall, 0.85 if u else 1.05))
        rows, columns = random.randint(3, 7), random.randint(2, 6)
        panes = grid(
            view.side_wall(u, near, z, top, 0.8), rows, columns, random.uniform(0.3, 0.6), random.uniform(0.3, 0.55)
        )
        canvas.fill_all(panes, _panes(random, len(panes), mix(shade(wall, 0.45), haze, share)))
        if random.randint(2):
            shop = grid(view.side_wall(u, near, z, 0.84, 1.0), 1, random.randint(1, 4), 0.2, 0.25)
            canvas.fill_all(shop, shade(colour(random), 0.7))
        z = near


def _car(random, canvas, view: View, z, curb, right) -> None:
    paint = colour(random)
    u = 1 - curb - 0.17 if right else curb + 0.03
    u += random.uniform(-0.02, 0.06) * (-1 if right else 1)
    width, long = 0.15, 0.55
    view.box(canvas, u, u + width, 0.86, 0.985, z, z + long, paint)
    view.box(canvas, u + 0.012, u + width - 0.012, 0.79, 0.865, z + 0.12, z + long * 0.85, shade(paint, 0.55))
    canvas.fill_all(
        grid(view.front(z, u, u + width, 0.89, 0.93), 1, 2, 0.7, 0.1), (214, 70, 60) if right else (240, 236, 200)
    )


def _tower(random, canvas, x, foot, top, width, lean, wall, far) -> None:
    """A high building with its foot at `foot`, narrower towards the top by `lean` (0..1), two faces in sight."""
    corner = x + random.uniform(-0.25, 0.45) * width  # where the two faces meet
    left, right, narrow = x - width / 2, x + width / 2, 1 - lean
    centre = x + random.uniform(-0.1, 0.1) * lean

    def above(value):
        return centre + (value - x) * narrow

    drop = random.uniform(0.0, 0.05)
    faces = [
        flat([(above(left), top + drop), (above(corner), top), (corner, foot), (left, foot)]),
        flat([(above(corner), top), (above(right), top + drop), (right, foot), (corner, foot)]),
    ]
    light = random.uniform(0.55, 0.8)
    rows = max(int((foot - top) * random.uniform(18, 34) * (0.6 if far else 1)), 4)
    glass = mix(shade(wall, random.choice([0.5, 0.65, 1.35])), (120, 140, 156), 0.3)
    style = random.randint(3)
    gaps = ((0.35, 0.4), (0.05, 0.5), (0.5, 0.05))[style]  # windows, bands, pillars
    for face, factor, share in ((faces[0], 1.0, corner - left), (faces[1], light, right - corner)):
        if share < 0.01:
            continue
        canvas.fill(quad(face), shade(wall, factor))
        columns = max(round(share * random.uniform(22, 34) * (0.6 if far else 1)), 1)
        columns, lines = (1 if style == 1 else columns), (1 if style == 2 else rows)
        panes = grid(face, lines, columns, *gaps)
        canvas.fill_all(panes, _panes(random, len(panes), shade(glass, factor)))
    crown = random.randint(4)
    if crown == 0:
        canvas.line(
            [(above(corner), top + 0.01), (above(corner), top - random.uniform(0.06, 0.16))], shade(wall, 0.7), 0.008
        )
    elif crown == 1:
        half = 0.3 * width * narrow
        canvas.fill(
            [
                (above(x) - half, top + 0.01),
                (above(x) - half, top - 0.04),
                (above(x) + half, top - 0.04),
                (above(x) + half, top + 0.01),
            ],
            shade(wall, 0.85),
        )
