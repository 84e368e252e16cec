"""Empty rooms for the drawn scenes, and what may hang or stand in any of them."""

from __future__ import annotations

import numpy as np

from synthetic.landscape import draw_sky
from synthetic.outdoor_scenes import draw_mountain, draw_skyscraper, draw_street
from synthetic.scene_canvas import Canvas, Plane, View, colour, flat, grid, mix, noise, quad, shade


def empty_room(random, canvas: Canvas, deep: float, narrow: float = 0.0) -> tuple[View, np.ndarray, np.ndarray]:
    """An empty room, and its view, wall and floor colours. `narrow`, 0..1, brings the side walls in."""
    x, y = random.uniform(0.32, 0.68), random.uniform(0.3, 0.58)
    half = random.uniform(0.62, 0.95) * (1 - narrow * 0.5)
    view = View((x, y), x - half, y - random.uniform(0.5, 0.85), x + half, y + random.uniform(0.45, 0.8))
    wall, floor = colour(random), mix(colour(random), (126, 104, 84), 0.25)
    ceiling, left = mix(wall, (232, 230, 224), random.uniform(0.2, 0.9)), random.uniform(0.75, 1.1)
    near = 0.4
    canvas.fill(quad(view.level(1, near, deep)), floor)
    kind = random.randint(3)
    if kind == 0:
        canvas.fill_all(grid(view.level(1, near, deep), 1, random.randint(7, 15), 0.1, 0), shade(floor, 1.1))
    elif kind == 1:
        canvas.blend(0.25 * np.clip(noise(random, 30, 30, canvas.side), 0, 1) * (canvas.y > y), shade(floor, 1.4))
    canvas.fill(quad(view.level(0, near, deep)), ceiling)
    canvas.fill(quad(view.side_wall(0, near, deep)), shade(wall, left))
    canvas.fill(quad(view.side_wall(1, near, deep)), shade(wall, 1.8 - left))
    canvas.fill(quad(view.front(deep, 0, 1, 0, 1)), shade(wall, random.uniform(0.85, 1.15)))
    canvas.fill(quad(view.front(deep, 0, 1, 0.97, 1)), shade(wall, 0.65))
    if random.randint(3) == 0:
        stripes = grid(view.front(deep, 0, 1, 0, 0.97), 1, random.randint(6, 16), 0.5, 0)
        canvas.fill_all(stripes, shade(wall, random.uniform(0.9, 1.12)))
    return view, wall, floor


def draw_window(random, canvas: Canvas, plane: Plane) -> None:
    """A window that looks out on one of the outdoor scenes, or on the sky; perhaps with curtains."""
    outside = Canvas(48)
    draw = (draw_mountain, draw_street, draw_skyscraper, draw_sky)[random.randint(4)]
    draw(random, outside)
    frame = quad(plane)
    lo, hi = frame.min(0), frame.max(0)
    first = np.clip(np.floor(lo * canvas.side), 0, canvas.side).astype(int)
    last = np.clip(np.ceil(hi * canvas.side), 0, canvas.side).astype(int)
    if (last - first).min() < 3:
        return
    rows = np.linspace(0, 47, last[1] - first[1]).astype(int)
    columns = np.linspace(0, 47, last[0] - first[0]).astype(int)
    canvas.pixels[first[1] : last[1], first[0] : last[0]] = outside.pixels[rows[:, None], columns[None]]
    tint = shade(mix(colour(random), (236, 234, 228), 0.6), random.uniform(0.6, 1.05))
    canvas.line(np.concatenate([frame, frame[:1]]), tint, 0.016)
    canvas.line(plane(np.array([0.5, 0.5]), np.array([0, 1])), tint, 0.01)
    if random.randint(2):
        cloth = colour(random)
        for s0, s1 in ((-0.18, 0.1), (0.9, 1.18)):
            canvas.fill(quad(plane, s0, s1, -0.1, 1.15), cloth)
            canvas.fill_all(grid(flat(quad(plane, s0, s1, -0.1, 1.15)), 1, 4, 0.55, 0), shade(cloth, 0.85))


def draw_picture(random, canvas: Canvas, plane: Plane) -> None:
    """A framed picture on a wall."""
    canvas.fill(quad(plane), shade(colour(random), 0.6))
    canvas.fill(quad(plane, 0.1, 0.9, 0.1, 0.9), colour(random))
    canvas.fill(quad(plane, 0.1, 0.9, random.uniform(0.4, 0.7), 0.9), colour(random))


def draw_shelf(random, canvas: Canvas, plane: Plane, boards: int, wood=None) -> None:
    """A bookcase: boards, and books of every height and colour on them, with gaps."""
    wood = colour(random) if wood is None else wood
    canvas.fill(quad(plane), shade(wood, 0.5))
    corners = quad(plane)
    span = np.linalg.norm(corners[1] - corners[0]) + np.linalg.norm(corners[2] - corners[3])
    count = int(np.clip(span * random.uniform(14, 24), 4, 26))
    few = colour(random, 5)
    for board in range(boards):
        edges = np.concatenate([[0], np.cumsum(random.uniform(0.4, 1.3, count))])
        edges = 0.03 + 0.94 * edges / edges[-1]
        tall = np.clip(random.uniform(0.55, 0.75) + random.uniform(-0.14, 0.14, count), 0.3, 0.86)
        foot = (board + 0.94) / boards
        present = random.uniform(0, 1, count) > 0.08
        books = quad(plane, edges[:-1], edges[1:] - 0.004, foot - tall / boards, foot)[present]
        tints = np.stack([colour(random, 24) for _ in range(count)])[present] * random.uniform(0.7, 1.15)
        canvas.fill_all(books, np.clip(mix(tints, few, random.uniform(0, 0.5)), 0, 255))
        canvas.fill(quad(plane, 0, 1, foot, foot + 0.05 / boards), wood)
    for s in (0.0, 0.975):
        canvas.fill(quad(plane, s, s + 0.025, 0, 1), shade(wood, 0.9))
    canvas.fill(quad(plane, 0, 1, 0, 0.02), wood)
