"""Scene classification of picture and video files: annotated copies and one JSON of what they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classification.predict.draw import draw_prediction
from classification.predict.predictor import ScenePrediction, ScenePredictor
from engine.predict import files as core

RECORDS_NAME = "scene_predictions.json"


def predict_files(
    predictor: ScenePredictor,
    inputs: Sequence[str | Path],
    output: str | Path,
    batch_size: int | None = None,
    max_images: int | None = None,
) -> core.PredictionReport:
    """Name the scenes of pictures, folders of them and videos; write the answers into the folder `output`.

    Annotated copies and scene_predictions.json as ``engine.predict.files.predict_files`` says; see `scene_record` for
    what its records end with.

    Args:
        batch_size: pictures computed together, by default 8 on a GPU and 1 on a CPU.
        max_images: stop after so many pictures and frames.

    Raises:
        UserError: as the engine's function does.
    """

    def present(image: np.ndarray, prediction: ScenePrediction) -> tuple[np.ndarray, dict]:
        picture = draw_prediction(image, prediction, predictor.classes)
        return picture, scene_record(prediction, predictor.classes)

    if batch_size is None:
        batch_size = core.default_batch_size(predictor.device)
    return core.predict_files(inputs, output, RECORDS_NAME, predictor.predict, present, batch_size, max_images)


def scene_record(prediction: ScenePrediction, classes: Sequence[str]) -> dict:
    """{"top": [{"class": name, "probability": 0..1}, …] (the likeliest first), "indoor": true, false, or null where
    the classes do not tell, "indoor_probability": 0..1 or null}."""
    indoor = prediction.indoor_probability
    return {
        "top": [
            {"class": str(classes[int(index)]), "probability": round(float(share), 6)}
            for index, share in zip(prediction.classes, prediction.probabilities, strict=True)
        ],
        "indoor": prediction.indoor,
        "indoor_probability": None if indoor is None else round(indoor, 6),
    }
