"""Drawing a prediction: what changes in a picture, what must not, and that it can be read."""

import numpy as np
import pytest

from classification.predict.draw import (
    BAR,
    GROUP_COLOURS,
    UNSEEN,
    draw_activation,
    draw_comparison,
    draw_prediction,
)
from classification.predict.predictor import Prediction

CLASSES = ["coast", "corridor", "a_class_whose_name_is_much_too_long_for_any_small_picture", "street", "attic", "x"]
PROBABILITIES = np.array([0.5, 0.25, 0.125, 0.1, 0.025])


def prediction(height, width, cam, share=1.0, indoor=0.2):
    """The centre square, `share` of the shorter side, was seen, with `cam` over it."""
    groups = {} if indoor is None else {"indoor": indoor, "outdoor": 1 - indoor}
    cam = np.asarray(cam, np.float32)
    side = share * min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    crop = (left, top, left + side, top + side)
    return Prediction(np.arange(5), PROBABILITIES, groups, cam, crop, side / len(cam))


def grey(height, width):
    return np.full((height, width, 3), 120, np.uint8)


def test_what_speaks_for_the_class_is_coloured_and_nothing_else():
    cam = [[8, 1, 0, -1], [1, 0.5, 0, 0], [0, 0, 0, 0], [-9, 0, 0, 0]]
    drawn = draw_activation(grey(400, 400), prediction(400, 400, cam))
    assert drawn.shape == (400, 400, 3) and drawn.dtype == np.uint8
    assert np.ptp(drawn[5, 5].astype(int)) > 60  # the strongest place has a colour, which grey has not
    changed = (drawn != 120).any(2)
    assert changed[:60, :60].all() and not changed[210:].any() and not changed[:, 210:].any()


def test_a_class_that_nothing_speaks_for_leaves_the_picture_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    for cam in (np.zeros((4, 4)), -np.ones((4, 4))):
        assert (draw_activation(image, prediction(400, 400, cam)) == image).all()


def test_outside_of_the_crop_the_picture_is_darkened():
    drawn = draw_activation(grey(400, 600), prediction(400, 600, np.zeros((7, 7)), share=0.5))
    dark = round(120 * UNSEEN)
    assert (drawn[101:299, 201:399] == 120).all()
    assert all((part == dark).all() for part in (drawn[:99], drawn[301:], drawn[:, :199], drawn[:, 401:]))


def test_a_large_picture_is_drawn_like_a_part_of_it():
    """Rows are worked on in strips; no seam may show."""
    random = np.random.default_rng(1)
    image, cam = random.integers(0, 256, (1100, 900, 3), np.uint8), random.normal(size=(7, 7))
    drawn = draw_activation(image, prediction(1100, 900, cam))
    seen = prediction(900, 900, cam)  # the crop: rows 100 to 1000
    assert (draw_activation(image[100:1000], seen) == drawn[100:1000]).all()


@pytest.mark.parametrize("size", [(1, 1), (24, 24), (20, 200), (200, 20), (64, 48), (333, 500), (1500, 2000)])
def test_any_size_is_readable(size):
    height, width = size
    drawn = draw_prediction(grey(*size), prediction(*size, np.eye(4)), CLASSES)
    factor = max(360 / min(size), 1)
    assert drawn.shape[1] == round(width * factor)
    panel = drawn[round(height * factor) :]
    assert len(panel) >= 6 * 12  # a row for the group and one for each of five classes
    for line in np.array_split(panel, 6):
        assert (line.max(2) < 120).sum() > 30  # with dark letters
    assert (panel[:, -3:] == 255).all()  # percentages end before the edge, the long name before them


@pytest.mark.parametrize("size", [(2, 1000), (1000, 2)])
def test_a_line_is_enlarged_within_limits(size):
    drawn = draw_prediction(grey(*size), prediction(*size, np.eye(4)), CLASSES)
    assert 360 <= drawn.shape[1] <= 4096 and drawn.shape[0] <= 4096 + 360
    both = draw_comparison(grey(*size), prediction(*size, np.eye(4)), CLASSES, 0)
    assert 720 < both.shape[1] <= 2 * 4200


@pytest.mark.parametrize("indoor", [True, False])
def test_groups_are_told_apart_by_their_colours(indoor):
    seen = prediction(400, 400, np.eye(4), indoor=0.9 if indoor else 0.1)
    panel = draw_prediction(grey(400, 400), seen, CLASSES)[400:].astype(int)
    inside, outside = ((np.abs(panel - colour).max(2) < 12).sum() for colour in GROUP_COLOURS[:2])  # of the letters
    assert min(inside, outside) == 0 and (inside > 100) == indoor and (outside > 100) != indoor


def test_bars_are_as_long_as_classes_are_likely():
    drawn = draw_prediction(grey(400, 800), prediction(400, 800, np.eye(4)), CLASSES)
    bars = (drawn[400:] == BAR).all(2)
    rows = np.flatnonzero(bars.any(1))
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    lengths = [np.flatnonzero(bars[group[0]])[-1] + 1 - np.flatnonzero(bars[group[0]])[0] for group in groups]
    np.testing.assert_allclose(np.array(lengths) / lengths[0], PROBABILITIES / PROBABILITIES[0], atol=0.01)


def test_the_group_is_said_only_where_it_is_known():
    pictures = [
        draw_prediction(grey(400, 400), prediction(400, 400, np.eye(4), indoor=p), CLASSES) for p in (0.9, 0.1, None)
    ]
    assert len(pictures[2]) < len(pictures[0]) == len(pictures[1])
    assert (pictures[0] != pictures[1]).any()


def test_comparison_shows_the_picture_twice():
    picture = draw_comparison(grey(400, 600), prediction(400, 600, np.zeros((4, 4))), CLASSES, 3)
    assert picture.shape[1] >= 1200 and picture.shape[0] > 400
    heading = next(row for row in range(200) if (picture[row, :600] == 120).all())
    assert (picture[heading : heading + 400, :600] == 120).all()
    right, wrong = (
        draw_comparison(grey(400, 600), prediction(400, 600, np.zeros((4, 4))), CLASSES, label) for label in (0, 3)
    )
    unknown = draw_comparison(grey(90, 60), prediction(90, 60, np.zeros((4, 4))), CLASSES, None)
    assert (right[:heading, -600:] != wrong[:heading, -600:]).any()
    assert unknown.shape[1] >= 720


def test_wrong_pictures_are_refused():
    for image in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected a picture"):
            draw_prediction(image, prediction(9, 9, np.eye(4)), CLASSES)
