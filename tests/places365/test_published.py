"""The published figures, and the one set that they may be shown beside."""

import numpy as np
import pytest

from places365.categories import places365_classes
from places365.published import PUBLISHED, is_official_val, published_beside


def official():
    return places365_classes(), np.random.default_rng(0).permutation(np.repeat(np.arange(365), 100))


def test_the_official_split_is_known_by_its_classes_and_counts():
    classes, labels = official()
    assert is_official_val(classes, labels) and is_official_val(classes, labels.astype(np.int16))
    assert is_official_val([name.replace("/", "-") for name in classes], labels)  # as folders spell them
    beside = published_beside(classes, labels)
    assert [(row["model"], row["top1_error"], row["top5_error"], row["crops"]) for row in beside] == [
        ("Places-365-CNN", 41.07, 11.48, 1),
        ("ResNet-152", 41.15, 11.61, 1),
        ("SE-ResNet-152", 40.37, 11.01, 1),
        ("ResNet-152", 45.26, 14.92, 10),
    ]
    assert (beside[3]["top1"], beside[3]["top5"]) == (54.74, 85.08)
    assert [row["trained_on"].removeprefix("Places365-") for row in beside] == ["Challenge"] * 3 + ["Standard"]
    assert all(row.source for row in PUBLISHED)


def swapped(classes, labels):
    return [classes[1], classes[0], *classes[2:]], labels


def sorted_folders(classes, labels):
    return sorted(name.replace("/", "_") for name in classes), labels


def one_more(classes, labels):
    return classes, np.append(labels, 0)


def one_less(classes, labels):
    return classes, labels[:-1]


def uneven(classes, labels):
    return classes, np.where(np.arange(len(labels)) == 0, (labels + 1) % 365, labels)


def unlabelled(classes, labels):
    return classes, np.full_like(labels, -1)


def others(classes, labels):
    return [f"class {index}" for index in range(365)], labels


def fewer_classes(classes, labels):
    return classes[:364], labels % 364


@pytest.mark.parametrize(
    "change", [swapped, sorted_folders, one_more, one_less, uneven, unlabelled, others, fewer_classes]
)
def test_no_other_set_gets_them(change):
    assert published_beside(*change(*official())) == []
