"""Which classes the picture of the confusion shows, and what of them."""

import numpy as np
import pytest
from PIL import Image

from engine.report.confusion import confusion_shares, most_confused_classes, plot_confusion


def perfect(classes, images=10):
    """(K, K + 1) counts without a mistake."""
    return np.column_stack([images * np.eye(classes, dtype=int), np.zeros(classes, dtype=int)])


def test_the_pairs_with_most_mistakes_are_shown_side_by_side():
    counts = perfect(30)
    counts[3, 20] = 6  # with the way back 6
    counts[8, 9], counts[9, 8] = 4, 3  # 7 both ways
    counts[20, 11] = 5
    assert most_confused_classes(counts, 5) == [8, 9, 3, 20, 11]
    assert most_confused_classes(counts, 2) == [8, 9]
    assert sorted(most_confused_classes(counts, 30)) == list(range(30))


def test_without_enough_mistakes_the_least_accurate_follow_and_empty_classes_never_do():
    counts = perfect(10)
    counts[4, -1] = 5  # unreadable images: no pair, but wrong all the same
    counts[[0, 7]] = 0
    counts[2, 0] = 1  # taken for a class that has no images itself
    assert most_confused_classes(counts, 3)[:3] == [2, 4, 1]
    assert most_confused_classes(counts, 16) == [2, 4, 1, 3, 5, 6, 8, 9]


def test_rows_are_in_percent_of_all_images_of_the_class():
    random = np.random.default_rng(0).integers(0, 9, (12, 13))
    shown = [5, 1, 7]
    shares = confusion_shares(random, shown)
    np.testing.assert_allclose(shares.sum(axis=1), 100)
    assert shares[0, 1] == pytest.approx(100 * random[5, 1] / random[5].sum())
    assert shares[2, 2] == pytest.approx(100 * random[7, 7] / random[7].sum())
    rest = np.delete(random[1], shown).sum()
    assert shares[1, 3] == pytest.approx(100 * rest / random[1].sum())


@pytest.mark.parametrize("classes", [1, 2, 16, 50])
def test_any_number_of_classes_draws(tmp_path, classes):
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes + 1)) + perfect(classes)
    names = ["a $strange$ <name> that is far too long for a label", *(f"scene {i}" for i in range(classes))][:classes]
    path = plot_confusion(counts, names, tmp_path / "plots" / "confusion.png")
    with Image.open(path) as image:
        drawn = np.asarray(image.convert("RGB")).copy()
    assert min(drawn.shape[:2]) > 200 and drawn.std() > 5
    assert [p.name for p in path.parent.iterdir()] == ["confusion.png"]
    plot_confusion(perfect(classes), names, path)
    with Image.open(path) as image:
        assert image.size[::-1] != drawn.shape[:2] or (np.asarray(image.convert("RGB")) != drawn).any()


def test_no_images_no_picture(tmp_path):
    assert plot_confusion(np.zeros((4, 5), dtype=int), list("abcd"), tmp_path / "plots" / "confusion.png") is None
    assert not (tmp_path / "plots").exists()
