"""The figures against torchmetrics, and against their definitions where it has none."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from classification.evaluation.metrics import (
    Predictions,
    classification_figures,
    confused_pairs,
    confusion_counts,
    expected_calibration_error,
)
from classification.groups import ClassGroups

FIGURES = {"top1", "top5", "top1_error", "top5_error", "mean_class_top1", "ece"}
NAME = "pets"


def draw(images, classes, seed=0, scale=2.0, absent=()):
    """Probabilities of a network that is right more often than not, and labels without the absent classes."""
    random = torch.Generator().manual_seed(seed)
    present = torch.tensor([c for c in range(classes) if c not in absent])
    labels = present[torch.randint(len(present), (images,), generator=random)]
    logits = scale * torch.randn(images, classes, generator=random)
    logits[torch.arange(images), labels] += 1.5
    return logits.double().softmax(dim=1), labels


def grouped(*group_of_class):
    return ClassGroups("in_or_out", ("in", "out"), group_of_class)


def predict(probabilities, labels, groups=None, **kwargs):
    return Predictions.from_probabilities(probabilities, labels, range(len(labels)), groups, **kwargs)


def names(count):
    return [f"class {index}" for index in range(count)]


def figures_of(probabilities, labels, groups=None, **kwargs):
    predictions = predict(probabilities, labels, groups, **kwargs)
    return classification_figures(predictions, names(probabilities.shape[1]), NAME, groups)


@pytest.mark.parametrize(
    ("images", "classes", "absent"),
    [
        (500, 365, range(100, 150)),
        (400, 20, ()),
        (300, 7, (0, 6)),
        (200, 5, ()),
        (200, 4, (1,)),
        (50, 2, ()),
        (1, 3, ()),
    ],
)
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_the_figures_are_those_of_torchmetrics(images, classes, absent, scale):
    probabilities, labels = draw(images, classes, scale=scale, absent=absent)
    result = figures_of(probabilities, labels)
    figures = result[NAME]
    assert set(figures) == FIGURES

    def accuracy(**kwargs):
        return 100 * multiclass_accuracy(probabilities, labels, num_classes=classes, **kwargs)

    assert figures["top1"] == pytest.approx(accuracy(average="micro").item(), abs=1e-4)
    # torchmetrics' own top-k over its micro average; with fewer than five classes every class is among the guesses
    top5 = accuracy(average="micro", top_k=5).item() if classes > 5 else 100.0
    assert figures["top5"] == pytest.approx(top5, abs=1e-4)
    assert figures["top1_error"] == 100 - figures["top1"] and figures["top5_error"] == 100 - figures["top5"]
    calibration = multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=15, norm="l1")
    assert figures["ece"] == pytest.approx(100 * calibration.item(), abs=1e-4)

    per_class = accuracy(average="none").tolist()
    present = sorted(set(labels.tolist()))
    shown = result["per_category"][NAME]
    assert list(shown) == names(classes) and result["images"] == images and result["broken"] == 0
    assert [c for c, value in enumerate(shown.values()) if value is not None] == present
    for c in present:
        assert shown[f"class {c}"] == pytest.approx(per_class[c], abs=1e-4)
    assert figures["mean_class_top1"] == pytest.approx(np.mean([per_class[c] for c in present]), abs=1e-4)


def test_the_loss_is_the_mean_cross_entropy_of_what_could_be_read():
    probabilities, labels = draw(50, 7)
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    broken = np.arange(50) % 9 == 0
    figures = figures_of(probabilities, labels, broken=broken)
    expected = torch.nn.functional.nll_loss(torch.tensor(probabilities).log(), torch.tensor(labels), reduction="none")
    assert figures["validation"]["total_loss"] == pytest.approx(expected[torch.tensor(~broken)].mean().item())
    assert figures_of(probabilities, labels, broken=np.ones(50, bool))["validation"] == {"total_loss": None}
    certain = figures_of(np.array([[1.0, 0.0]]), [1])["validation"]["total_loss"]  # of what it holds for impossible
    assert 700 < certain < 720


def test_of_equal_probabilities_the_lower_index_comes_first():
    probabilities = np.array([[0.1, 0.3, 0.3, 0.1, 0.1, 0.1], [1 / 6] * 6, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    predictions = predict(probabilities, [2, 0, 0])
    assert predictions.top5.tolist() == [[1, 2, 0, 3, 4], [0, 1, 2, 3, 4], [5, 0, 1, 2, 3]]
    np.testing.assert_array_equal(predictions.confidence, [0.3, 1 / 6, 1.0])
    figures = figures_of(probabilities, [2, 5, 4])[NAME]
    assert figures["top1"] == 0.0 and figures["top5"] == pytest.approx(100 / 3)


def test_many_ties_order_as_a_sort_by_value_and_index_does():
    random = np.random.default_rng(0)
    probabilities = random.integers(0, 3, (200, 30)) / 64
    expected = [sorted(range(30), key=lambda c: (-row[c], c))[:5] for row in probabilities]
    assert predict(probabilities, [0] * 200).top5.tolist() == expected


def test_batches_joined_are_the_whole():
    probabilities, labels = draw(83, 11)
    groups = grouped(*[0, 1] * 5, -1)
    whole = predict(probabilities, labels, groups)
    parts = [
        Predictions.from_probabilities(probabilities[a:b], labels[a:b], range(a, b), groups)
        for a, b in ((0, 0), (0, 20), (20, 21), (21, 83), (83, 83))
    ]
    joined = Predictions.concatenate(parts)
    for name, column in vars(whole).items():
        np.testing.assert_array_equal(getattr(joined, name), column)
        assert getattr(joined, name).dtype == column.dtype
    figures = [classification_figures(predictions, names(11), NAME, groups) for predictions in (joined, whole)]
    assert figures[0] == figures[1]


def test_calibration_by_its_definition_on_the_boundaries_too():
    confidence = np.array([0.0, 1 / 15, 0.2, 0.2000001, 0.5, 14 / 15, 0.99, 1.0, 1.0])
    correct = np.array([False, True, False, True, True, False, True, True, False])
    expected = 0.0
    for m in range(1, 16):  # bin m: ((m - 1) / 15, m / 15]; 0 belongs to the first
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15) | (confidence == 0) & (m == 1)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(confidence, correct) == pytest.approx(100 * expected)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0.0
    assert expected_calibration_error(np.array([]), np.array([])) is None


def test_groups_are_told_apart_by_the_summed_probability():
    groups = grouped(0, 1, 0, -1)
    probabilities = np.array(
        [[0.3, 0.4, 0.3, 0.0], [0.1, 0.5, 0.2, 0.2], [0.05, 0.05, 0.0, 0.9], [0.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0]]
    )
    shares = groups.probabilities(probabilities)
    np.testing.assert_allclose(shares[:, 0], [0.6, 0.375, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    # The first is wrong, those of 0.5 count as "in", and the fourth one's class is in neither, so it does not count.
    figures = figures_of(probabilities, [1, 1, 0, 3, 0], groups)[NAME]
    assert set(figures) == FIGURES | {"in_or_out"} and figures["in_or_out"] == pytest.approx(75.0)
    for one_group in (grouped(0, 0, 0, -1), grouped(-1, -1, -1, -1)):
        assert figures_of(probabilities, [1, 1, 0, 3, 0], one_group)[NAME]["in_or_out"] is None
        assert np.isnan(one_group.probabilities(probabilities)).all()


def test_of_three_groups_the_likeliest_counts():
    groups = ClassGroups("kind", ("a", "b", "c"), (0, 0, 1, 2))
    probabilities = np.array([[0.25, 0.25, 0.4, 0.1], [0.1, 0.1, 0.3, 0.5]])
    np.testing.assert_allclose(groups.probabilities(probabilities), [[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]])
    assert figures_of(probabilities, [1, 2], groups)[NAME]["kind"] == 50.0
    mostly_in_none = np.array([[0.05, 0.15, 0.8]])
    np.testing.assert_allclose(grouped(0, 1, -1).probabilities(mostly_in_none), [[0.25, 0.75]])


def test_a_broken_image_is_wrong_in_every_accuracy_and_left_out_of_calibration():
    groups = grouped(0, 1, 0, 1, -1, 1)
    probabilities, labels = draw(60, 6, seed=1)
    broken = np.arange(60) % 10 == 3
    spoilt = probabilities.numpy().copy()
    spoilt[broken] = np.nan  # whatever the network says of a blank picture must not matter
    result = figures_of(spoilt, labels, groups, broken=broken)
    assert result["images"] == 60 and result["broken"] == 6
    unbroken = figures_of(probabilities[~broken], labels[~broken], groups)
    for name in ("top1", "top5"):
        assert result[NAME][name] == pytest.approx(unbroken[NAME][name] * 54 / 60)
    known = [groups.group_of_class[label] >= 0 for label in labels]
    right = unbroken[NAME]["in_or_out"] * np.sum(np.array(known) & ~broken)
    assert result[NAME]["in_or_out"] == pytest.approx(right / np.sum(known))
    assert result[NAME]["ece"] == pytest.approx(unbroken[NAME]["ece"])
    assert result["confused_pairs"] and {p["truth"] for p in result["confused_pairs"]} <= set(names(6))
    mistakes = sum(pair["count"] for pair in result["confused_pairs"])
    assert mistakes == round(54 * (1 - unbroken[NAME]["top1"] / 100))
    everything = figures_of(spoilt, labels, groups, broken=np.ones(60, dtype=bool))
    assert everything[NAME]["top1"] == 0.0 and everything[NAME]["ece"] is None
    assert everything["confused_pairs"] == []


def test_confusions_are_counted_and_the_most_frequent_come_first():
    # a: 4 images, 3 taken for b; b: 2, both for c; c: 5, one for a and one unreadable
    truth = [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    said = [1, 1, 1, 0, 2, 2, 2, 2, 2, 0, 0]
    broken = [False] * 10 + [True]
    predictions = predict(np.eye(3)[said], truth, broken=broken)
    counts = confusion_counts(predictions, 3)
    assert counts.tolist() == [[1, 3, 0, 0], [0, 0, 2, 0], [1, 0, 3, 1]]
    assert confused_pairs(counts, ["a", "b", "c"]) == [
        {"truth": "a", "predicted": "b", "count": 3, "share": 75.0},
        {"truth": "b", "predicted": "c", "count": 2, "share": 100.0},
        {"truth": "c", "predicted": "a", "count": 1, "share": 20.0},
    ]
    random = np.random.default_rng(0).integers(0, 9, (40, 41))
    pairs = confused_pairs(random, names(40))
    assert len(pairs) == 20 and all(pair["truth"] != pair["predicted"] for pair in pairs)
    assert [p["count"] for p in pairs] == sorted((p["count"] for p in pairs), reverse=True)
    assert pairs[0]["count"] == max(random[i, j] for i in range(40) for j in range(40) if i != j)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        predict(np.ones((3, 2)) / 2, [0, 1])
    with pytest.raises(ValueError, match="finite"):
        predict(np.array([[np.nan, 1.0]]), [0])
    for label in (-1, 2):
        with pytest.raises(ValueError, match=r"labels must be 0\.\.1"):
            figures_of(np.ones((1, 2)) / 2, [label])
