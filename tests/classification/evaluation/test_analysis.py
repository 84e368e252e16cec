"""How sure is sure enough, and which images are most confidently wrong."""

import numpy as np
import pytest

from classification.evaluation.abstention import ACCURACIES, abstention, stated_threshold
from classification.evaluation.analysis import find_mistakes
from classification.evaluation.metrics import Predictions
from engine.errors import UserError


def predictions(confidence, right, broken=()):
    """Of two classes, by the probability of the first guess."""
    confidence, right = np.asarray(confidence, float), np.asarray(right, bool)
    broken = np.isin(np.arange(len(confidence)), broken)
    probabilities = np.column_stack([confidence, 1 - confidence])
    return Predictions.from_probabilities(probabilities, (~right).astype(int), range(len(right)), broken=broken)


@pytest.mark.parametrize("seed", range(5))
def test_no_lower_probability_is_sure_enough(seed):
    """By counting anew at every probability, of which many are equal."""
    random = np.random.default_rng(seed)
    confidence = random.integers(50, 100, 300) / 100
    right = random.random(300) < confidence**0.5
    table = abstention(predictions(confidence, right, broken=range(0, 300, 17)))
    assert [entry["accuracy"] for entry in table] == list(ACCURACIES)
    read = np.arange(300) % 17 != 0
    for entry in table:
        accuracy = {t: 100 * right[read & (confidence >= t)].mean() for t in np.unique(confidence[read])}
        enough = [t for t, share in accuracy.items() if share >= entry["accuracy"]]
        assert entry["threshold"] == (min(enough) if enough else None)
        if enough:
            assert entry["answered"] == pytest.approx(100 * (read & (confidence >= min(enough))).sum() / 300)


def test_where_nothing_is_right_nothing_is_sure():
    assert {entry["threshold"] for entry in abstention(predictions([0.9, 0.8], [0, 0]))} == {None}
    assert {entry["threshold"] for entry in abstention(predictions([], []))} == {None}
    table = abstention(predictions([0.9, 0.8], [1, 1]))
    assert {(entry["threshold"], entry["answered"]) for entry in table} == {(0.8, 100.0)}


@pytest.mark.parametrize(
    "accuracy, stated, words",
    [
        (42, None, "one of 80, 90, 95, 98, 99 percent"),
        (95, None, "model.pth states no thresholds"),
        (95, {"at_accuracy": 3}, "cannot be read"),
        (95, {"at_accuracy": [{"accuracy": 90, "threshold": 0.3}]}, "cannot be read"),
        (95, {"at_accuracy": [{"accuracy": 95, "threshold": None}]}, "no probability made 95 % of answers right"),
    ],
)
def test_what_cannot_be_told_is_refused(accuracy, stated, words):
    with pytest.raises(UserError, match=words):
        stated_threshold(accuracy, lambda: stated, "model.pth")
    good = {"at_accuracy": [{"accuracy": 95, "threshold": 0.75}]}
    assert stated_threshold(95, lambda: good, "model.pth") == 0.75


def test_the_most_confidently_wrong_come_first_under_their_true_class():
    records = [
        {"file": "0.jpg", "label": "a", "top": [["b", 0.6], ["a", 0.3], ["c", 0.1]]},
        {"file": "1.jpg", "label": "a", "top": [["c", 0.9], ["b", 0.1]]},
        {"file": "2.jpg", "label": "a", "top": [["a", 0.9], ["b", 0.1]]},
        {"file": "3.jpg", "label": "b", "broken": True, "top": []},
    ]
    found = find_mistakes(records, ["a", "b", "c"])
    assert [(one.file, one.predicted, one.score, one.image_id) for one in found["a"]] == [
        ("1.jpg", "c", 0.9, 1),
        ("0.jpg", "b", 0.6, 0),
    ]
    assert [one.details["truth_probability"] for one in found["a"]] == [None, 0.3] and found["b"] == found["c"] == []
