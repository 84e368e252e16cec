"""Drawn scenes under a roof: bedroom, corridor, staircase and bookstore. Each may show a little of the others."""

from __future__ import annotations

import numpy as np

from synthetic.rooms import draw_picture, draw_shelf, draw_window, empty_room
from synthetic.scene_canvas import Canvas, View, colour, grid, mix, quad, shade


def draw_bedroom(random: np.random.RandomState, canvas: Canvas) -> None:
    """A room with a bed; a window, a lamp, a wardrobe, pictures, a small shelf."""
    deep = random.uniform(1.7, 2.6)
    view, wall, floor = empty_room(random, canvas, deep)
    on_the_right = bool(random.randint(2))
    if random.randint(4):
        start = random.uniform(0.08, 0.5)
        draw_window(
            random, canvas, view.front(deep, start, start + random.uniform(0.25, 0.4), 0.15, random.uniform(0.45, 0.6))
        )
    for _ in range(random.randint(0, 3)):
        start, top = random.uniform(0.05, 0.8), random.uniform(0.15, 0.4)
        draw_picture(
            random,
            canvas,
            view.front(deep, start, start + random.uniform(0.08, 0.2), top, top + random.uniform(0.1, 0.2)),
        )
    if random.randint(2):
        u0, width, wood = random.choice([0.0, 0.78]), 0.22, colour(random)
        view.box(canvas, u0, u0 + width, random.uniform(0.2, 0.4), 1, deep - 0.35, deep, wood)
        canvas.fill_all(grid(view.front(deep - 0.35, u0, u0 + width, 0.42, 0.97), 1, 2, 0.12, 0.05), shade(wood, 0.86))
    if random.randint(4) == 0:
        start = random.uniform(0.1, 0.7)
        draw_shelf(random, canvas, view.front(deep, start, start + 0.22, 0.25, 0.6), 2)
    if random.randint(2):
        spread = random.uniform(0.1, 0.3)
        near = random.uniform(1.05, 1.3)
        canvas.fill(quad(view.level(1, near, deep - 0.2, spread, 1 - spread)), mix(colour(random), floor, 0.3))
    lengthwise = random.randint(3) > 0
    width = random.uniform(0.38, 0.6)
    u0 = random.uniform(0.5, 0.98 - width) if on_the_right and width < 0.48 else random.uniform(0.02, 0.98 - width)
    if lengthwise:
        _bed(random, canvas, view, u0, u0 + width, deep - random.uniform(0.7, 1.1), deep - 0.02)
    else:
        z = random.uniform(1.15, 1.4)
        _bed_across(random, canvas, view, z, z + random.uniform(0.35, 0.6), on_the_right)
    if random.randint(2) and lengthwise:
        u = u0 - 0.13 if u0 > 0.16 else u0 + width + 0.02
        view.box(canvas, u, u + 0.11, 0.78, 1, deep - 0.25, deep - 0.02, colour(random))
        x, y = view.at(u + 0.055, 0.7, deep - 0.14)
        canvas.line([(x, y), view.at(u + 0.055, 0.78, deep - 0.14)], (90, 84, 80), 0.01)
        canvas.fill(
            [(x - 0.025, y - 0.035), (x + 0.025, y - 0.035), (x + 0.04, y + 0.02), (x - 0.04, y + 0.02)],
            (246, 224, 170),
        )


def draw_corridor(random: np.random.RandomState, canvas: Canvas) -> None:
    """A long, narrow space that runs away from the viewer, with doors along its sides and lamps above."""
    deep = random.uniform(4.5, 11)
    view, wall, floor = empty_room(random, canvas, deep, narrow=random.uniform(0.25, 0.6))
    if random.randint(2):
        tiles = grid(view.level(1, 0.6, min(deep, 6)), 14, random.randint(3, 6), 0.06, 0.06)
        canvas.fill_all(tiles[::2], shade(floor, random.uniform(0.82, 1.15)))
    if random.randint(3) == 0:
        canvas.fill(quad(view.level(1, 0.6, deep, 0.3, 0.7)), mix(colour(random), floor, 0.2))
    if random.randint(3):
        for z in np.arange(random.uniform(1.0, 1.5), deep, random.uniform(0.7, 1.3)):
            canvas.fill(quad(view.level(0, z, z + 0.3, 0.4, 0.6)), (250, 246, 228))
    doors = colour(random)
    for u in (0.0, 1.0):
        kind, step = random.randint(5), random.uniform(0.8, 1.4)
        for z in np.arange(random.uniform(0.7, 1.4), deep - 0.5, step)[::-1]:
            plane = view.side_wall(u, z, z + 0.42, 0.24, 1.0)
            if kind < 3:
                canvas.fill(quad(view.side_wall(u, z - 0.04, z + 0.46, 0.21, 1.0)), shade(wall, 0.62))
                canvas.fill(quad(plane), shade(doors, 0.9 if u else 1.05))
                canvas.fill(quad(plane, 0.1, 0.2, 0.48, 0.52), (220, 210, 180))
            elif kind == 3:
                draw_picture(random, canvas, view.side_wall(u, z, z + 0.4, 0.3, 0.6))
            else:
                canvas.fill(quad(view.side_wall(u, z, z + 0.5, 0.2, 0.65)), (214, 226, 236))
    if random.randint(4) == 0:
        band = random.uniform(0.55, 0.7)
        for u in (0.0, 1.0):
            canvas.fill(quad(view.side_wall(u, 0.6, deep, band, band + 0.04)), shade(wall, 0.7))
    ends = random.randint(3)
    if ends == 0:
        draw_window(random, canvas, view.front(deep, 0.2, 0.8, 0.15, 0.85))
    elif ends == 1:
        canvas.fill(quad(view.front(deep, 0.25, 0.75, 0.2, 1)), shade(doors, 0.85))
    if random.randint(4) == 0:
        z = random.uniform(1.5, 3)
        u = random.choice([0.02, 0.8])
        view.box(canvas, u, u + 0.18, 0.75, 1, z, z + 0.5, colour(random))


def draw_staircase(random: np.random.RandomState, canvas: Canvas) -> None:
    """Stairs that lead up and away from the viewer, or up along a wall, with a railing."""
    if random.randint(5) < 3:
        _stairs_ahead(random, canvas)
    else:
        _stairs_across(random, canvas)


def draw_bookstore(random: np.random.RandomState, canvas: Canvas) -> None:
    """Shelves full of books along the walls, tables with piles of them, lamps."""
    deep = random.uniform(1.6, 4.0)
    view, wall, floor = empty_room(random, canvas, deep, narrow=random.uniform(0.0, 0.35))
    wood, top = colour(random), random.uniform(0.02, 0.3)
    sides = random.randint(1, 4)
    if sides & 1 or random.randint(2):
        draw_shelf(
            random,
            canvas,
            view.front(deep, random.uniform(0, 0.15), random.uniform(0.85, 1), top, 0.98),
            random.randint(3, 6),
            wood,
        )
    for number, u in enumerate((0.0, 1.0)):
        if sides & (1 + number):
            z = random.uniform(0.6, 0.9)
            while z < deep - 0.3:
                end = min(z + random.uniform(0.7, 1.3), deep)
                draw_shelf(
                    random,
                    canvas,
                    view.side_wall(u, z, end, top, 1),
                    random.randint(4, 6),
                    shade(wood, 0.85 if u else 1.0),
                )
                z = end
    if random.randint(2):
        for z in np.arange(deep - 0.2, 1, -random.uniform(0.4, 0.8)):
            x, y = view.at(random.choice([0.35, 0.5, 0.65]), random.uniform(0.05, 0.15), z)
            canvas.ellipse(x, y, 0.12 / z, 0.06 / z, (250, 238, 204))
    for z in sorted(random.uniform(1.15, max(deep - 0.4, 1.3), random.randint(0, 4)), reverse=True):
        u, width = random.uniform(0.1, 0.55), random.uniform(0.2, 0.4)
        view.box(canvas, u, u + width, 0.8, 1, z, z + 0.3, shade(wood, random.uniform(0.7, 1.1)))
        for start in np.arange(u + 0.02, u + width - 0.05, 0.075):
            height = random.randint(1, 5)
            for layer in range(height):
                foot = 0.8 - 0.025 * layer
                view.box(canvas, start, start + 0.06, foot - 0.024, foot, z + 0.05, z + 0.18, colour(random))


def _bed(random, canvas, view: View, u0, u1, z0, z1) -> None:
    """A bed with its head at the back wall."""
    wood, sheet, blanket = colour(random), mix(colour(random), (232, 230, 226), 0.7), colour(random)
    high = random.uniform(0.74, 0.82)
    view.box(canvas, u0 - 0.02, u1 + 0.02, high - random.uniform(0.1, 0.22), 1, z1 - 0.06, z1, wood)
    view.box(canvas, u0, u1, high + 0.12, 0.97, z0, z1 - 0.06, shade(wood, 0.8))
    view.box(canvas, u0, u1, high, high + 0.12, z0, z1 - 0.06, sheet)
    _pillows(random, canvas, view, np.linspace(u0, u1, random.randint(2, 4)), high, z1 - 0.34, z1 - 0.08, sheet)
    fold = z1 - random.uniform(0.36, 0.6)
    view.box(canvas, u0 - 0.01, u1 + 0.01, high - 0.015, random.uniform(high + 0.06, 0.95), z0 - 0.02, fold, blanket)
    top = view.level(high - 0.015, z0, fold, u0, u1)
    if random.randint(2):
        stripes = grid(top, 1, random.randint(3, 8), 0.6, 0) if random.randint(2) else grid(top, 4, 1, 0, 0.6)
        canvas.fill_all(stripes, mix(colour(random), blanket, 0.4))
    canvas.fill(quad(view.level(high - 0.016, fold - 0.1, fold, u0 - 0.01, u1 + 0.01)), sheet)


def _bed_across(random, canvas, view: View, z0, z1, head_right) -> None:
    """A bed along the picture, its head at a side wall."""
    wood, sheet, blanket = colour(random), mix(colour(random), (232, 230, 226), 0.7), colour(random)
    high, length = random.uniform(0.74, 0.82), random.uniform(0.55, 0.8)
    u0, u1 = (1 - length, 1.0) if head_right else (0.0, length)
    view.box(canvas, u0, u1, high + 0.1, 0.96, z0, z1, shade(wood, 0.85))
    view.box(canvas, u0, u1, high, high + 0.11, z0, z1, sheet)
    head = (u1 - 0.05, u1) if head_right else (u0, u0 + 0.05)
    pillows = (u1 - 0.22, u1 - 0.06) if head_right else (u0 + 0.06, u0 + 0.22)
    view.box(canvas, *head, high - random.uniform(0.1, 0.2), 1, z0, z1, wood)
    _pillows(random, canvas, view, np.array(pillows), high, z0 + 0.04, z1 - 0.04, sheet)
    cover = (u0 - 0.01, u1 - 0.26) if head_right else (u0 + 0.26, u1 + 0.01)
    view.box(canvas, *cover, high - 0.012, random.uniform(high + 0.05, 0.95), z0 - 0.02, z1, blanket)


def _pillows(random, canvas, view: View, edges, high, z0, z1, sheet) -> None:
    tint = shade(sheet, random.uniform(0.95, 1.12))
    for a, b in zip(edges, edges[1:], strict=False):
        view.box(canvas, a + 0.015, b - 0.015, high - 0.05, high, z0, z1, tint)


def _stairs_ahead(random, canvas: Canvas) -> None:
    """Flight of steps that climbs away from the viewer."""
    deep = random.uniform(3.0, 4.5)
    view, wall, floor = empty_room(random, canvas, deep, narrow=random.uniform(0, 0.5))
    start, rise = random.uniform(1.05, 1.5), random.uniform(0.045, 0.075)
    tread, steps = random.uniform(0.09, 0.18), random.randint(8, 15)
    u0, u1 = ((0.0, 1.0), (0.25, 0.75), (0.0, 0.6), (0.35, 1.0))[random.randint(4)]
    stone, light = colour(random), random.uniform(0.55, 0.75)
    runner, has_runner = colour(random), random.randint(3) == 0
    for step in reversed(range(steps)):  # far ones first: nearer ones stand before them
        z, v = start + step * tread, 1 - step * rise
        view.box(canvas, u0, u1, v - rise, 1.0 if step == 0 else v + rise, z, z + tread * 1.5, shade(stone, light))
        canvas.fill(quad(view.level(v - rise, z, z + tread, u0, u1)), shade(stone, 1.15))
        canvas.fill(quad(view.front(z, u0, u1, v - rise, v - rise * 0.85)), shade(stone, 1.3))
        if has_runner:
            middle, half = (u0 + u1) / 2, (u1 - u0) * 0.3
            canvas.fill(quad(view.front(z, middle - half, middle + half, v - rise, v)), shade(runner, 0.8))
            canvas.fill(quad(view.level(v - rise, z, z + tread, middle - half, middle + half)), runner)
    top_z, top_v = start + steps * tread, 1 - steps * rise
    if random.randint(2) and top_z < deep:
        canvas.fill(quad(view.front(deep, 0.3, 0.7, max(top_v - 0.5, 0.02), top_v)), shade(colour(random), 0.8))
    rail, high = shade(colour(random), 0.6), random.uniform(0.2, 0.28)
    for u in (u0 + 0.01, u1 - 0.01):
        if random.randint(4) == 0:
            continue
        z = start + tread * (np.arange(steps) + 0.5)
        v = 1 - rise * (np.arange(steps) + 1)
        for foot, head in zip(view.at(u, v, z), view.at(u, v - high, z), strict=True):
            canvas.line([foot, head], rail, 0.006)
        canvas.line(view.at(u, v - high, z), shade(rail, 1.2), 0.018)


def _stairs_across(random, canvas: Canvas) -> None:
    """Flight of steps that climbs along the back of a room, seen from its side."""
    deep = random.uniform(1.6, 2.2)
    view, wall, floor = empty_room(random, canvas, deep)
    if random.randint(3) == 0:
        draw_window(random, canvas, view.front(deep, 0.05, 0.35, 0.15, 0.5))
    steps, begin, end = random.randint(7, 14), random.uniform(0.0, 0.3), random.uniform(0.75, 1.15)
    top, z = random.uniform(0.15, 0.5), deep - random.uniform(0.2, 0.45)
    u = np.linspace(begin, end, steps + 1)
    v = np.linspace(1, top, steps + 1)
    side = colour(random)
    solid = random.randint(2)
    outline_u, outline_v = np.repeat(u, 2)[1:-1], np.repeat(v, 2)[2:]
    thickness = 1.0 if solid else 0.12
    if solid:
        below = np.array([[u[-1], 1.0], [u[0], 1.0]])
    else:
        below = np.array([[u[-1], v[-1] + thickness], [u[0] + 0.1, 1.0], [u[0], 1.0]])
    for a, b, height in zip(u, u[1:], v[1:], strict=False):
        canvas.fill(quad(view.level(height, z, deep, a, b)), shade(side, 1.25))
    outline = np.concatenate([np.stack([outline_u, outline_v], -1), below])
    canvas.fill(view.at(outline[:, 0], outline[:, 1], z), shade(side, 0.8))
    for a, height, before in zip(u, v[1:], v, strict=False):
        canvas.line(view.at(a, np.array([before, height]), z), shade(side, 0.5), 0.006)
    rail, high = shade(colour(random), 0.6), random.uniform(0.16, 0.26)
    middle, treads = (u[1:] + u[:-1]) / 2, v[1:]
    for a, b in zip(view.at(middle, treads, z), view.at(middle, treads - high, z), strict=True):
        canvas.line([a, b], rail, 0.007)
    canvas.line(view.at(middle, treads - high, z), shade(rail, 1.2), 0.02)
    if random.randint(3) == 0:
        start = random.uniform(0.55, 0.75)
        draw_picture(
            random,
            canvas,
            view.front(z, start, start + 0.14, 0.72, 0.9) if solid else view.front(deep, 0.05, 0.2, 0.2, 0.42),
        )
