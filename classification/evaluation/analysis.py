"""Where a classifier is wrong, written down: its most confident mistakes, and how sure it has to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classification.evaluation.abstention import RULE
from classification.index.index import ImageIndex
from engine.json_files import read_json, write_json
from engine.report.mistakes import FOLDER, Mistake, write_mistakes

MISTAKES = (
    "Images whose likeliest class is wrong, under their true class, by the probability of that guess, the highest "
    "first. `truth_probability` is that of the true class, null where it is not among the five likeliest."
)


def analyse_classifier(run: Path, index: ImageIndex, figures: dict, predictions_file: str, max_pixels: int) -> None:
    """Writes ``thresholds.json``, ``mistakes.json`` and pictures of the worst mistakes into ``run``/analysis.

    Args:
        run: a run folder with the predictions of an evaluation on ``index``.
        figures: of that evaluation.
        max_pixels: that an image may have to be drawn; 0: any.
    """
    folder = Path(run) / FOLDER
    write_json(folder / "thresholds.json", thresholds(index, figures))
    records = read_json(Path(run) / predictions_file, "predictions")
    mistakes = find_mistakes(records, index.classes)

    def draw(mistake: Mistake) -> np.ndarray:
        return index.read(int(mistake.image_id), max_pixels)

    write_mistakes(folder, MISTAKES, mistakes, {name: len(group) for name, group in mistakes.items()}, draw)


def thresholds(index: ImageIndex, figures: dict) -> dict:
    """What is stated of them beside the weights, and in ``thresholds.json``.

    Args:
        figures: of an evaluation on ``index``.
    """
    return {"rule": RULE, "data": index.source, "at_accuracy": figures["abstention"]}


def find_mistakes(records: Sequence[dict], classes: Sequence[str]) -> dict[str, list[Mistake]]:
    """Each class's mistakes, by ``MISTAKES``.

    Args:
        records: see ``evaluate.write_predictions``, in the order of the index.
    """
    found: dict[str, list[Mistake]] = {name: [] for name in classes}
    for position, record in enumerate(records):
        if not record["top"] or record["top"][0][0] == record["label"]:
            continue
        (predicted, score), truth = record["top"][0], record["label"]
        details = {"truth_probability": dict(record["top"]).get(truth)}
        mistake = Mistake(truth, "in truth", record["file"], position, predicted, score, truth, details)
        found[truth].append(mistake)
    return {name: sorted(group, key=lambda mistake: -mistake.score) for name, group in found.items()}
