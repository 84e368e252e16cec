"""Detection on picture and video files: annotated copies and one JSON of what was found."""

from dataclasses import dataclass

from detection.predict.draw import draw_detections
from engine.predict import files as core

RECORDS_NAME = "predictions.json"


@dataclass
class PredictionReport(core.PredictionReport):
    """`engine.predict.files.PredictionReport`, and how many objects were found in all pictures together."""

    objects: int = 0


def predict_files(predictor, inputs, output, batch_size=None, max_images=None, max_pixels=None) -> PredictionReport:
    """Detect in pictures, folders of them and videos; write what was found into the folder `output`.

    Annotated copies and predictions.json as `engine.predict.files.predict_files` says, whose records here end
    with "detections": see `Detections.records`. Thumbnails are enlarged in the copy only.

    batch_size: pictures computed together, by default 8 on a GPU and 1 on a CPU. max_images: stop after so
    many pictures and frames. max_pixels: as the engine's function, by default the config's INPUT.MAX_PIXELS.
    Raises UserError as the engine's function does.
    """
    objects = 0

    def present(image, detections):
        nonlocal objects
        picture = draw_detections(image, detections, predictor.classes)
        objects += len(detections)
        return picture, {"detections": detections.records(predictor.classes, predictor.category_ids)}

    if batch_size is None:
        batch_size = core.default_batch_size(predictor.device)
    if max_pixels is None:
        max_pixels = predictor.max_pixels
    report = core.predict_files(
        inputs, output, RECORDS_NAME, predictor.predict, present, batch_size, max_images, max_pixels
    )
    return PredictionReport(**vars(report), objects=objects)
