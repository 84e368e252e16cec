"""What Places365 adds: indoor and outdoor among the figures and in a prediction's record, and its own file names."""

import numpy as np
import pytest

from classification.evaluation.metrics import Predictions, classification_figures
from classification.predict.files import prediction_record
from classification.predict.predictor import Prediction
from places365.categories import places365_classes
from places365.task import PLACES365_TASK, indoor_outdoor

CLASSES = ["dining_room", "baseball_field", "robot", "/k/kitchen"]
PROBABILITIES = np.array([[0.3, 0.2, 0.4, 0.1], [0.1, 0.6, 0.3, 0.0], [0.0, 0.0, 1.0, 0.0], [0.25, 0.5, 0.0, 0.25]])


def test_indoor_and_outdoor_are_groups_of_the_classes():
    groups = indoor_outdoor(CLASSES)
    assert groups.names == ("indoor", "outdoor") and groups.group_of_class == (0, 1, -1, 0)
    shares = groups.probabilities(PROBABILITIES)[:, 0]
    np.testing.assert_allclose(shares, [2 / 3, 1 / 7, 0.5, 0.5])
    predictions = Predictions.from_probabilities(PROBABILITIES, [0, 0, 1, 3], range(4), groups)
    figures = classification_figures(predictions, CLASSES, "places365", groups)["places365"]
    assert figures["indoor_outdoor"] == 50.0  # right, wrong, wrong, right: equal shares are indoor
    assert indoor_outdoor(places365_classes()).told_apart


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (CLASSES, {"indoor": True, "indoor_probability": 0.666667}),
        (["robot"] * 4, {"indoor": None, "indoor_probability": None}),
    ],
)
def test_a_record_says_whether_it_is_indoors(classes, said):
    groups = PLACES365_TASK.groups(classes)
    shares = dict(zip(groups.names, groups.probabilities(PROBABILITIES)[0], strict=True)) if groups.told_apart else {}
    prediction = Prediction(np.array([2]), np.array([0.4]), shares, np.zeros((1, 1)), (0, 0, 1, 1), 1.0)
    record = prediction_record(prediction, classes, PLACES365_TASK)
    assert record == {"top": [{"class": "robot", "probability": 0.4}], **said}


def test_its_names_are_those_of_earlier_runs():
    assert (PLACES365_TASK.info.name, PLACES365_TASK.info.predictions_file) == ("places365", "scene_predictions.json")
