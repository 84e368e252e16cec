"""Land, water and sky for the drawn scenes."""

from __future__ import annotations

import cv2
import numpy as np

from synthetic.scene_canvas import SKIES, Canvas, colour, mix, noise, ridge, shade


def draw_sky(random: np.random.RandomState, canvas: Canvas, last: float = 1.0) -> np.ndarray:
    """Fills the picture down to `last` with sky and clouds; returns the colour at the horizon, (3,)."""
    zenith, horizon = (
        np.array(one, np.float32) + random.uniform(-10, 10, 3) for one in SKIES[random.randint(len(SKIES))]
    )
    canvas.gradient(np.clip(zenith, 0, 255), np.clip(horizon, 0, 255), 0.0, min(last, 0.75))
    if last > 0.75:
        canvas.gradient(np.clip(horizon, 0, 255), np.clip(horizon, 0, 255), 0.75, last)
    cover = random.uniform(-0.9, 0.5)
    if cover > -0.5:
        clouds = noise(random, 5, 3, canvas.side) + 0.5 * noise(random, 13, 7, canvas.side)
        clouds += 0.22 * noise(random, 40, 22, canvas.side)
        rows = int(0.8 * canvas.side)  # none lower than that
        share = np.clip(clouds[:rows] + cover, 0, 1) * np.clip(1.2 - 1.5 * canvas.y[:rows], 0, 0.9)
        canvas.blend(share, mix(horizon, (246, 244, 240), 0.6))
    return np.clip(horizon, 0, 255)


def draw_range(random, canvas, base, height, rock, snow) -> None:
    """A range whose feet are at `base` and whose highest peak is `height` above, with a lit and a shaded face to
    each ridge, and snow down to `snow` (0..1) of its height from above."""
    side = canvas.side
    x = canvas.x[0]
    tops = np.full(side, -9.0, np.float32)
    for number in range(random.randint(2, 6)):
        peak, steep = random.uniform(-0.1, 1.1), random.uniform(0.8, 1.9)
        tall = height * (1.0 if number == 0 else random.uniform(0.45, 0.95))
        tops = np.maximum(tops, tall - steep * height * np.abs(x - peak))
    tops = np.maximum(tops, 0.1 * height) + 0.13 * height * ridge(random, side, 0.62)
    line = base - tops
    first, last = int(max(line.min(), 0) * side), int(np.clip(base + 0.2, 0, 1) * side)
    if last <= first:
        return
    depth = canvas.y[first:last] - line[None]
    rough = noise(random, 9, 12, side) + 0.6 * noise(random, 26, 30, side) + 0.35 * noise(random, 70, 70, side)
    rough = rough[first:last]
    # A spur below a summit wanders sideways as it goes down; which face a place is on follows from the slope of
    # the skyline above that spur.
    slope = np.gradient(cv2.GaussianBlur(line[None], (0, 0), side / 60)[0]) * side
    wander = (np.arange(side, dtype=np.float32) + rough * depth * (0.45 * side)).astype(np.int32)
    lit = np.clip(2.0 * slope[np.clip(wander, 0, side - 1)] + 0.7 * rough, -1, 1) * random.choice([-1.0, 1.0])
    canvas.paint(depth > 0, rock, 1 + 0.3 * lit, first)
    white = (depth + 0.09 * height * rough < 0.75 * snow * height) & (tops > 0.35 * height) & (depth > 0)
    canvas.paint(white, (226, 232, 240), 0.86 + 0.13 * lit, first)


def draw_ground(random, canvas, edge, tint) -> None:
    """Everything below the line `edge`, (side,): grass, scrub, stones."""
    rough = 0.6 * noise(random, 16, 7, canvas.side) + 0.4 * noise(random, 70, 40, canvas.side)
    canvas.paint(canvas.y > edge, tint, 1 + 0.22 * rough)


def draw_water(random, canvas, first, near, far=None) -> None:
    """Everything below `first`: water with waves that are longer towards the viewer."""
    side, start = canvas.side, int(first * canvas.side) + 1
    down = np.clip((canvas.y[start:] - first) / max(1 - first, 0.05), 0, 1)
    waves = noise(random, 90, 8, side)[start:] * (1 - 0.6 * down) + noise(random, 26, 5, side)[start:] * down
    glint = np.clip(waves - 0.55, 0, 1) * random.uniform(0, 160)
    tint = mix(near if far is None else far, near, down[..., None])
    canvas.pixels[start:] = np.clip(tint * (1 + 0.13 * waves)[..., None] + glint[..., None], 0, 255).astype(np.uint8)


def draw_river(random, canvas, first, tint) -> None:
    """A stream that winds from `first` down to the viewer, ever wider."""
    down = np.linspace(0, 1, 40)
    phase, bends = random.uniform(0, 6.3), random.uniform(1.5, 3.5)
    middle = random.uniform(0.3, 0.7) + (0.03 + 0.16 * down) * np.sin(phase + bends * 2 * np.pi * np.sqrt(down))
    half, y = 0.004 + 0.1 * down**1.7, first + down * (1.05 - first)
    canvas.fill(np.concatenate([np.stack([middle - half, y], -1), np.stack([middle + half, y], -1)[::-1]]), tint)


def draw_wood(random, canvas, foot, count, height, round_crowns=False) -> None:
    """Trees in a row with their feet near `foot`."""
    green = mix(colour(random), (54, 78, 52), 0.65)
    for x in np.sort(random.uniform(-0.05, 1.05, count)):
        tall, y = height * random.uniform(0.6, 1.3), foot + random.uniform(-0.02, 0.03)
        tint = shade(green, random.uniform(0.6, 1.15))
        if round_crowns:
            canvas.ellipse(x, y - 0.6 * tall, 0.8 * tall, 0.9 * tall, tint)
            continue
        for step in range(3):
            top, wide = y - tall * (1 - 0.25 * step), tall * (0.13 + 0.06 * step)
            canvas.fill(
                [(x, top), (x + wide, top + 0.5 * tall), (x - wide, top + 0.5 * tall)], shade(tint, 1 - 0.08 * step)
            )
    canvas.paint(canvas.y > foot + 0.02 + 0.01 * ridge(random, canvas.side, 0.7), shade(green, 0.8))


def draw_tree(random, canvas, foot, crown, size) -> None:
    """A tree with a round crown of about `size` about `crown`, (x, y), on a trunk from `foot`."""
    canvas.line([foot, crown], (84, 68, 56), size * 0.16)
    green = shade(mix(colour(random), (84, 108, 66), 0.7), random.uniform(0.6, 1.1))
    for _ in range(6):
        x, y = crown + random.uniform(-0.5, 0.5, 2) * size
        canvas.ellipse(
            x,
            y,
            size * random.uniform(0.8, 1.3),
            size * random.uniform(0.7, 1.1),
            shade(green, random.uniform(0.8, 1.2)),
        )


def draw_headland(random, canvas, horizon, rock) -> None:
    """Land that comes in from one side and ends in the sea in a cliff; perhaps with a lighthouse."""
    side, mirrored = canvas.side, bool(random.randint(2))
    x = canvas.x[0] if not mirrored else 1 - canvas.x[0]
    reach, height, foot = random.uniform(0.3, 0.8), random.uniform(0.12, 0.42), horizon + random.uniform(0.02, 0.2)
    tops = height * np.clip((reach - x) / reach, 0, 1) ** random.uniform(0.25, 0.8)
    line = foot - tops - 0.02 * ridge(random, side, 0.65) * (x < reach)
    shoreline = foot + random.uniform(0, 0.45) * np.clip(reach - x, 0, 1) + 0.012 * ridge(random, side, 0.6)
    below = canvas.y - line
    inside = (below > 0) & (canvas.y < shoreline) & (x < reach)
    strata = 0.5 * noise(random, 5, 46, side) + 0.4 * noise(random, 40, 12, side) + 0.3 * noise(random, 70, 70, side)
    canvas.paint(inside, rock, 0.85 + 0.4 * strata)
    grass = inside & (below + 0.03 * strata < random.uniform(-0.02, 0.1))
    canvas.paint(grass, mix(colour(random), (104, 122, 74), 0.6), 1 + 0.2 * strata)
    surf = (np.abs(canvas.y - shoreline + 0.012 * strata) < 0.008) & (x < reach)
    canvas.paint(surf, (232, 236, 236))
    if random.randint(4) == 0:
        at = random.uniform(0.25, 0.8) * reach
        top = float(line[np.argmin(np.abs(x - at))])
        at = at if not mirrored else 1 - at
        tall, wide = random.uniform(0.12, 0.2), 0.02
        canvas.fill(
            [
                (at - wide, top + 0.02),
                (at - 0.6 * wide, top - tall),
                (at + 0.6 * wide, top - tall),
                (at + wide, top + 0.02),
            ],
            (228, 224, 216),
        )
        canvas.ellipse(at, top - tall, 0.036, 0.036, shade(colour(random), 0.7))


def draw_beach(random, canvas, horizon, sand) -> None:
    """Sand in the foreground, wet along the water, with two lines of surf."""
    side, x = canvas.side, canvas.x[0]
    slant, start = random.uniform(-0.9, 0.9), random.uniform(horizon + 0.15, 0.95)
    edge = (
        start
        + slant * (x - 0.5)
        + random.uniform(0.02, 0.07) * np.sin(random.uniform(4, 11) * x + random.uniform(0, 6.3))
    )
    rough = noise(random, 50, 30, side)
    depth = canvas.y - np.maximum(edge, horizon + 0.03) + 0.012 * rough
    wet = np.clip(depth / 0.12, 0, 1)
    canvas.paint(depth > 0, sand, (0.68 + 0.32 * wet) * (1 + 0.08 * rough))
    foam = (np.abs(depth) < 0.014 + 0.01 * rough) | (np.abs(depth + random.uniform(0.05, 0.1)) < 0.007 + 0.01 * rough)
    canvas.paint(foam & (canvas.y > horizon + 0.02), (236, 240, 240))


def draw_rock(random, canvas, x, y, size, tint) -> None:
    """A rock in the water, `size` to each side of (x, y), with foam at its foot."""
    angles = np.sort(random.uniform(0, np.pi, 7))
    reach = size * random.uniform(0.6, 1.1, 7)
    canvas.fill(np.stack([x + reach * np.cos(angles), y - 0.7 * reach * np.sin(angles)], -1), tint)
    canvas.line([(x - size, y), (x + size, y)], (224, 230, 230), 0.006)
