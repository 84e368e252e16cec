"""A classifier's figures on a set: predictions of all processes, brought together and scored once."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from classification.evaluation.abstention import abstention
from classification.evaluation.metrics import Predictions, classification_figures, confusion_counts
from classification.groups import ClassGroups
from classification.images.batches import ImageBatch, test_batches
from classification.images.broken_files import broken_limit
from classification.index.index import ImageIndex
from classification.task import CLASS_FOLDERS, ClassificationTask
from engine import compat  # noqa: F401  (before detectron2)
from engine.device import autocast, choose_precision, device_of
from engine.errors import UserError
from engine.inference import for_inference
from engine.json_files import write_json
from engine.report.confusion import plot_confusion
from engine.train.launch import raise_everywhere, raising_everywhere, shows_progress
from engine.train.sampling import shard

from detectron2.config import CfgNode
from detectron2.utils import comm

logger = logging.getLogger(__name__)

CONFUSION_FILE = Path("plots") / "confusion.png"
MAX_NAMED = 20  # broken images, in the log or in a message


def class_probabilities(model: nn.Module, images: Tensor) -> np.ndarray:
    """The probabilities of the classes, the softmax of the logits in float64; of several crops of an image, the mean.

    Args:
        model: in eval mode; ``model((N, 3, H, W) uint8) -> (N, K)`` logits.
        images: (N, 3, H, W) uint8, or (N, crops, 3, H, W).

    Returns:
        (N, K) float64, 0..1, a row's sum 1; NaN where logits are not finite.
    """
    crops = images.flatten(0, 1) if images.dim() == 5 else images
    # On the CPU, as not every device computes in double precision; a few hundred numbers an image cost nothing there.
    probabilities = model(crops).cpu().double().softmax(dim=1)
    return probabilities.unflatten(0, (len(images), -1)).mean(dim=1).numpy()


def predict_set(
    model: nn.Module, index: ImageIndex, cfg: CfgNode, groups: ClassGroups | None = None
) -> tuple[Predictions | None, list[tuple[int, str]]]:
    """The predictions for the whole of a labelled set.

    Each process predicts its share, every image exactly once, and hands on a few numbers an image.

    Args:
        groups: of the set's classes, if they have some.

    Returns:
        in the first process the predictions in the order of the index, and (index, message) for each image that could
        not be read; (None, []) in the others.

    Raises:
        UserError: in all processes, where one of them has trouble with its images, or gets probabilities that are
            not finite numbers.
    """
    none = np.empty((0, len(index.classes)))
    mine = shard(len(index), comm.get_rank(), comm.get_world_size())
    parts = [Predictions.from_probabilities(none, [], [], groups)]  # a share may be empty
    broken: list[tuple[int, str]] = []
    bar = tqdm(total=len(mine), desc="evaluating", unit="img", disable=not shows_progress(), leave=False)
    device = device_of(model)
    dtype = choose_precision(cfg.TEST.PRECISION, device)
    model = for_inference(model, dtype) if cfg.TEST.FUSE else model
    with raising_everywhere(device), torch.inference_mode(), autocast(device, dtype), bar:
        for batch in test_batches(index, mine, cfg) if len(mine) else ():
            probabilities = class_probabilities(model, batch.images)
            parts.append(_predictions(probabilities, batch, groups, index))
            broken += batch.broken
            bar.update(len(batch))
    gathered = comm.gather((Predictions.concatenate(parts), broken), dst=0)
    if not gathered:
        return None, []
    return Predictions.concatenate([part for part, _ in gathered]), [item for _, part in gathered for item in part]


def evaluate_classifier(
    model: nn.Module, index: ImageIndex, cfg: CfgNode, run: Path, task: ClassificationTask = CLASS_FOLDERS
) -> dict:
    """The figures of a model in eval mode; the predictions and a picture of the confusion are written to the run
    folder.

    An image that cannot be read is named in a warning and counts as wrong.

    Args:
        model: ``model((N, 3, H, W) uint8) -> (N, K)`` logits.
        index: a set whose images all have labels.

    Returns:
        ``metrics.classification_figures``' dict with ``abstention`` (see there), ``crops``, ``images_per_second``, and,
        where the task has some for this set, ``published``; an empty dict in all processes but the first.

    Raises:
        UserError: no images, images without labels, another number of classes than the model's, more broken images
            than DATA.MAX_BROKEN_SHARE of the set; else as ``predict_set``.
    """
    unlabelled = int((np.asarray(index.labels) < 0).sum())
    if unlabelled or not len(index):
        raise UserError(
            f"{index.source}: {unlabelled:,} of {len(index):,} images have no label, so there is nothing to compare "
            "predictions with. Evaluate on a labelled split, such as DATA.VAL val, or predict: "
            f"{task.info.predict_command}"
        )
    begin = time.perf_counter()
    groups = task.groups(index.classes)
    predictions, broken = predict_set(model, index, cfg, groups)
    seconds = time.perf_counter() - begin
    limit = broken_limit(len(index), cfg.DATA.MAX_BROKEN_SHARE)
    raise_everywhere(_too_many(broken, limit, index) if len(broken) > limit else None, device_of(model))
    figures = {}
    if predictions is not None:
        if not np.array_equal(predictions.indices, np.arange(len(index))):
            raise RuntimeError("the evaluation's batches do not hold each image of the set exactly once")
        _warn_of_broken(broken, task)
        figures = classification_figures(predictions, index.classes, task.info.name, groups)
        figures["abstention"] = abstention(predictions)
        figures |= {"crops": cfg.TEST.CROPS, "images_per_second": round(len(index) / seconds, 2)}
        if published := task.published(index.classes, index.labels):
            figures["published"] = published
        write_predictions(Path(run) / task.info.predictions_file, predictions, index)
        plot_confusion(confusion_counts(predictions, len(index.classes)), index.classes, Path(run) / CONFUSION_FILE)
        logger.info(
            "%s: %.1f img/s\n%s", index.source, len(index) / seconds, format_table(figures, task.info.name, groups)
        )
    comm.synchronize()
    return figures


def write_predictions(path: Path, predictions: Predictions, index: ImageIndex) -> Path:
    """Writes a JSON list of ``{"file", "label", "top": [[class, probability], …]}``, an image each, classes by name,
    the five likeliest first; ``top`` is empty and ``"broken": true`` for an image that could not be read.

    Raises:
        OSError: the place cannot be written to.
    """
    records = []
    for row in range(len(predictions)):
        position = int(predictions.indices[row])
        record = {"file": index.name(position), "label": index.classes[predictions.labels[row]]}
        if predictions.broken[row]:
            record |= {"broken": True, "top": []}
        else:
            guesses = zip(predictions.top5[row], predictions.top5_probabilities[row], strict=True)
            record["top"] = [[index.classes[guess], round(float(probability), 5)] for guess, probability in guesses]
        records.append(record)
    return write_json(path, records, indent=None)


def format_table(figures: dict, name: str, groups: ClassGroups | None = None, pairs: int = 5) -> str:
    """``evaluate_classifier``'s figures as text, percent; the published ones beside, and the most confused pairs."""
    own = figures[name]
    rows = [("this model", own["top1"], own["top5"], own["top1_error"], own["top5_error"], figures.get("crops"))]
    for row in figures.get("published", ()):
        rows.append(
            (
                f"{row['model']}, trained on {row['trained_on']}",
                row["top1"],
                row["top5"],
                row["top1_error"],
                row["top5_error"],
                row["crops"],
            )
        )
    width = max(len(row[0]) for row in rows)
    heads = ("top-1", "top-5", "top-1 error", "top-5 error", "crops")
    lines = [" " * width + "".join(f"{head:>13}" for head in heads)]
    lines += [f"{row[0]:<{width}}" + "".join(f"{_shown(value):>13}" for value in row[1:]) for row in rows]
    if figures.get("published"):
        lines.append("(the others' figures as published, on this split)")
    lines += [
        "",
        f"mean of the classes {_shown(own['mean_class_top1'])}, "
        + (f"{' or '.join(groups.names)} {_shown(own[groups.figure])}, " if groups is not None else "")
        + f"calibration error {_shown(own['ece'])}; {figures['images']:,} images"
        + (f", {figures['broken']:,} of them unreadable" if figures["broken"] else ""),
    ]
    if shown := figures["confused_pairs"][:pairs]:
        lines.append("most confused: " + "; ".join(f"{p['truth']} as {p['predicted']} {p['count']:,}" for p in shown))
    return "\n".join(lines)


def _predictions(
    probabilities: np.ndarray, batch: ImageBatch, groups: ClassGroups | None, index: ImageIndex
) -> Predictions:
    """A batch's columns. Raises UserError where the network's output cannot be used."""
    if probabilities.shape[1] != len(index.classes):
        raise UserError(
            f"the model tells {probabilities.shape[1]} classes apart, and {index.source} has {len(index.classes)}: "
            "evaluate it on data with the classes it was trained on"
        )
    indices = batch.indices.numpy()
    broken = np.isin(indices, [position for position, _ in batch.broken])
    wrong = indices[~np.isfinite(probabilities).all(axis=1) & ~broken]
    if len(wrong):
        names = ", ".join(index.name(int(position)) for position in wrong[:3])
        raise UserError(
            f"the model's output is not finite for {len(wrong)} images of a batch ({names}{', …' * (len(wrong) > 3)}): "
            "its weights or its BatchNorm statistics have diverged"
        )
    return Predictions.from_probabilities(probabilities, batch.labels.numpy(), indices, groups, broken)


def _too_many(broken: list[tuple[int, str]], limit: int, index: ImageIndex) -> UserError:
    shown = "; ".join(message for _, message in broken[:MAX_NAMED])
    return UserError(
        f"{len(broken):,} of the {len(index):,} images of {index.source} cannot be read, and DATA.MAX_BROKEN_SHARE "
        f"allows {limit:,}: {shown}{'; …' * (len(broken) > MAX_NAMED)}. Get them again, or "
        "allow more"
    )


def _warn_of_broken(broken: list[tuple[int, str]], task: ClassificationTask) -> None:
    for _, message in broken[:MAX_NAMED]:
        logger.warning("counts as wrong: %s", message)
    if broken[MAX_NAMED:]:
        logger.warning("and %d more; all of them are marked in %s", len(broken) - MAX_NAMED, task.info.predictions_file)


def _shown(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
