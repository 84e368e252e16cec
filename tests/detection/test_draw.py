"""Drawing: what changes in a picture and what must not."""

import itertools

import numpy as np
import pytest

from detection.predict.detections import Detections
from detection.predict.draw import (
    MASK_OPACITY,
    class_colour,
    draw_comparison,
    draw_detections,
    draw_predictions,
    line_width,
    text_size,
)

NAMES = ["cat", "dog", "a rather long name", "größe"]


def grey(height, width):
    return np.full((height, width, 3), 120, np.uint8)


def changed(before, after):
    return (before != after).any(axis=2)


@pytest.mark.parametrize("size", [(60, 80), (480, 640), (1500, 2000)])
def test_pixels_change_only_on_the_outline_and_in_one_label(size):
    image = grey(*size)
    height, width = size
    box = np.array([[0.3 * width, 0.5 * height, 0.7 * width, 0.9 * height]])
    drawn = draw_predictions(image, box, [0], [0.87], NAMES)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8 and (image == 120).all()
    x0, y0, x1, y1 = box[0]
    y, x = np.nonzero(changed(image, drawn))
    line = line_width(size) + 1
    inside = (x >= x0 - line) & (x <= x1 + line) & (y >= y0 - line) & (y <= y1 + line)
    deep = (x > x0 + line) & (x < x1 - line) & (y > y0 + line) & (y < y1 - line)
    assert not (inside & deep).any()
    assert (drawn[round(y1) - 1, round((x0 + x1) / 2)] == class_colour(0)).all()
    # What lies outside of the box is one filled rectangle, the label.
    ly, lx = y[~inside], x[~inside]
    assert np.ptp(ly) + 1 <= 3 * text_size(size)
    label = drawn[ly.min() : ly.max() + 1, lx.min() : lx.max() + 1]
    assert changed(grey(*label.shape[:2]), label).all()
    assert len(np.unique(label.reshape(-1, 3), axis=0)) > 2  # letters on the colour


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (300, 5), (24, 24), (64, 48), (333, 500)])
def test_any_box_on_any_picture_draws_and_stays_inside(size):
    height, width = size
    values = [-50, 0, 0.4 * width, width - 1, width, 5 * width + 100]
    spans = [(0, height), (height - 1, height), (-9, 0.5 * height)]
    sides = itertools.combinations_with_replacement(values, 2)
    boxes = np.array([(a, b, c, d) for (a, c), (b, d) in itertools.product(sides, spans)], float)
    classes = np.arange(len(boxes)) % len(NAMES)
    drawn = draw_predictions(grey(*size), boxes, classes, np.linspace(0, 1, len(boxes)), NAMES)
    assert drawn.shape == (height, width, 3)


def test_nothing_to_draw_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    assert (draw_predictions(image, np.zeros((0, 4)), [], None, NAMES) == image).all()
    away = [[60, 10, 70, 20], [np.nan, 1, 2, 3], [0, 0, np.inf, 5], [-20, -20, -5, -5]]
    assert (draw_predictions(image, away, [0] * 4, [0.9] * 4, NAMES) == image).all()


def test_masks_tint_their_pixels_and_no_others():
    image = grey(100, 100)
    mask = np.zeros((1, 100, 100), bool)
    mask[0, 40:80, 20:60] = True
    without = draw_predictions(image, [[20, 40, 60, 80]], [1], None, NAMES)
    drawn = draw_predictions(image, [[20, 40, 60, 80]], [1], None, NAMES, masks=mask)
    extra = changed(without, drawn)
    assert not (extra & ~np.pad(mask[0], 1)[2:, 2:] & ~mask[0]).any()
    expected = (1 - MASK_OPACITY) * 120 + MASK_OPACITY * np.array(class_colour(1))
    assert np.abs(drawn[60, 40] - expected).max() <= 1


def test_labels_do_not_cover_each_other_where_there_is_room():
    boxes = [[100, 100, 300, 300], [102, 101, 298, 299], [101, 100, 302, 298]]
    drawn = draw_predictions(grey(480, 640), boxes, [0, 1, 2], [0.9, 0.8, 0.7], NAMES)
    for label in range(3):
        mine = (drawn == class_colour(label)).all(axis=2)
        rows = mine.sum(axis=1)
        assert (rows > 20).sum() > text_size((480, 640))  # each keeps a filled background of its own


def test_the_surest_is_on_top():
    boxes = [[10, 10, 90, 90], [10, 10, 90, 90]]
    for scores, top in (([0.9, 0.3], 0), ([0.3, 0.9], 1)):
        drawn = draw_predictions(grey(200, 200), boxes, [0, 1], scores, NAMES)
        assert (drawn[50, 10] == class_colour(top)).all()


def test_colours_are_stable_distinct_and_readable():
    colours = [class_colour(index) for index in range(90)]
    assert colours == [class_colour(index) for index in range(90)]
    assert len(set(colours)) == 90
    for a, b in zip(colours[:20], colours[1:21], strict=True):
        assert np.abs(np.subtract(a, b)).sum() > 100


def test_wrong_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match="1 boxes but 2 classes"):
        draw_predictions(grey(9, 9), [[0, 0, 1, 1]], [0, 1], None, NAMES)
    with pytest.raises(ValueError, match="uint8"):
        draw_predictions(np.zeros((9, 9, 3)), [], [], None, NAMES)
    with pytest.raises(ValueError, match="masks are"):
        draw_predictions(grey(9, 9), [[0, 0, 1, 1]], [0], None, NAMES, masks=np.zeros((1, 4, 4), bool))


def test_thumbnails_are_enlarged_with_their_boxes_and_masks():
    mask = np.zeros((1, 50, 100), bool)
    mask[0, 10:20, 30:60] = True
    found = Detections([[30, 10, 60, 20]], [0.5], [0], mask)
    drawn = draw_detections(grey(50, 100), found, NAMES)
    assert drawn.shape == (360, 720, 3)
    x = round(45 * 7.2)
    assert (drawn[144 - 1, x] == class_colour(0)).all()  # the lower edge, y 20, at 7.2 times the size
    assert draw_detections(grey(400, 500), found.select([]), NAMES).shape == (400, 500, 3)


@pytest.mark.parametrize("size", [(2, 1000), (1000, 2)])
def test_a_line_is_enlarged_within_limits(size):
    found = Detections([[0, 0, size[1], size[0]]], [0.5], [0])
    drawn = draw_detections(grey(*size), found, NAMES)
    assert max(drawn.shape) == 4096 and min(drawn.shape[:2]) == 8
    assert max(draw_comparison(grey(*size), found, found, NAMES).shape) <= 2 * 4200


def test_comparison_is_two_pictures_wide():
    truth, found = Detections([[5, 5, 50, 50]], None, [0]), Detections(np.zeros((0, 4)), [], [])
    picture = draw_comparison(grey(400, 600), truth, found, NAMES)
    assert picture.shape[0] > 400 and picture.shape[1] >= 1200
    right = picture[-400:, -600:]
    assert not changed(grey(400, 600), right).any()
    assert draw_comparison(grey(30, 20), truth, found, NAMES).shape[1] >= 720
