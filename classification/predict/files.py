"""Classification of picture and video files: annotated copies and one JSON of what they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classification.predict.draw import draw_prediction
from classification.predict.predictor import Prediction, Predictor
from classification.task import ClassificationTask
from engine.predict import files as core
from engine.predict.text import with_heading


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str | Path],
    output: str | Path,
    batch_size: int | None = None,
    max_images: int | None = None,
    max_pixels: int | None = None,
) -> core.PredictionReport:
    """Name the classes of pictures, folders of them and videos; write the answers into the folder `output`.

    Annotated copies and the task's JSON file as ``engine.predict.files.predict_files`` says; see `prediction_record`
    for what its records end with, besides "sure" (true or false) where the predictor has a ``sure_from``.

    Args:
        batch_size: pictures computed together, by default 8 on a GPU and 1 on a CPU.
        max_images: stop after so many pictures and frames.
        max_pixels: as the engine's function, by default the config's INPUT.MAX_PIXELS.

    Raises:
        UserError: as the engine's function does.
    """

    def present(image: np.ndarray, prediction: Prediction) -> tuple[np.ndarray, dict]:
        picture = draw_prediction(image, prediction, predictor.classes)
        record = prediction_record(prediction, predictor.classes, predictor.task)
        if predictor.sure_from is not None:
            record["sure"] = bool(prediction.probabilities[0] >= predictor.sure_from)
            if not record["sure"]:
                picture = with_heading(picture, f"not sure: below {100 * predictor.sure_from:.1f} %")
        return picture, record

    if batch_size is None:
        batch_size = core.default_batch_size(predictor.device)
    if max_pixels is None:
        max_pixels = predictor.max_pixels
    name = predictor.task.info.predictions_file
    return core.predict_files(inputs, output, name, predictor.predict, present, batch_size, max_images, max_pixels)


def prediction_record(prediction: Prediction, classes: Sequence[str], task: ClassificationTask) -> dict:
    """{"top": [{"class": name, "probability": 0..1}, …] (the likeliest first)}, and what ``task.record_groups``
    adds."""
    top = [
        {"class": str(classes[int(index)]), "probability": round(float(share), 6)}
        for index, share in zip(prediction.classes, prediction.probabilities, strict=True)
    ]
    return {"top": top, **task.record_groups(prediction.groups)}
