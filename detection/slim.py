"""A trained detector whose backbone is to be made smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from detection.coco_ap.average_precision import evaluate_coco
from detection.coco_ap.bootstrap import MatchedDetections, standard_error
from detection.config import config_from_checkpoint
from detection.data import DetectionData, TestSet, to_learn_from
from detection.evaluate import detect
from detection.fused import detector_for_inference
from detection.images import TrainingMapper
from detection.losses import losses_of, seen_as_evaluated
from detection.task_info import DETECTION
from detection.train import Options, load_data_alone, run_detection
from detection.trained import load_detector
from engine import compat  # noqa: F401  (before detectron2)
from engine.config.dialect import load_config
from engine.errors import UserError
from engine.inference import evaluated_exactly
from engine.slim.subject import Score, Subject
from engine.train.checkpoint import load_checkpoint
from engine.train.sampling import spread

from detectron2.config import CfgNode


class DetectorSubject(Subject):
    """As ``Subject``. The figure is box AP, its standard error the bootstrap's over images. Batches are of one image
    each: of several, the squeeze of one would see the padding of another."""

    def __init__(self, *args):
        super().__init__(*args)
        self._data: dict[str, DetectionData] = {}

    def images(self, count: int) -> list[Tensor]:
        return [self.model.preprocess_image([entry]).tensor for entry in self._entries(count)]

    def losses(self, count: int) -> Iterator[Callable[[], Tensor]]:
        cfg = seen_as_evaluated(self.cfg)
        records = to_learn_from(self._split("TRAIN"), cfg)
        for number, entry in enumerate(map(TrainingMapper(cfg), spread(records, count))):
            yield lambda entry=entry, number=number: sum(losses_of(self.model, entry, number).values())

    def evaluate(self) -> Score:
        data = self._split("VAL")
        results = detect(self.model, data, evaluated_exactly(self.cfg))
        figures = evaluate_coco(data.coco, results, ("bbox",), class_names=data.class_names).figures["bbox"]
        if figures["AP"] is None:
            raise UserError(f"{data.json_path} has no object to find: there is no AP to look at")
        return Score("AP", figures["AP"], standard_error(MatchedDetections(data.coco, results)), figures)

    def inference(self, model: nn.Module) -> Callable[[], object]:
        ready, entries = detector_for_inference(model), list(self._entries(1))
        return lambda: ready(entries)

    def train(self, config: str, words: Sequence[str]) -> None:
        run_detection(Options(config=config, overrides=words, resume=True))

    def _entries(self, count: int) -> Iterator[dict]:
        records = TestSet(self._split("TRAIN").records(), self.cfg)
        return (records[index] for index in spread(range(len(records)), count))

    def _split(self, split: str) -> DetectionData:
        if split not in self._data:
            self._data[split] = load_data_alone(self.cfg, split)
        return self._data[split]


def open_detector(
    weights: Path, device: str = "auto", data: str | None = None, overrides: Sequence[str] = ()
) -> DetectorSubject:
    """A detector's checkpoint as a subject.

    Args:
        data: the folder in which the files and folders of DATA.TRAIN and DATA.VAL lie now.
        overrides: KEY VALUE pairs.

    Raises:
        UserError: as ``load_detector``; a file is not in the folder.
    """
    checkpoint = load_checkpoint(Path(weights))
    stated = load_config(config_from_checkpoint(checkpoint), None, overrides)
    words = [*overrides, *(moved(stated, Path(data)) if data else [])]
    stated = load_config(stated, None, words)
    model, cfg, _, _ = load_detector(weights, None, device, [*words, "COMPILE", "False"])
    return DetectorSubject(model, cfg, stated, checkpoint, Path(weights), DETECTION)


def moved(cfg: CfgNode, folder: Path) -> list[str]:
    """DATA's keys with their paths under another folder: the longest end of each that is there.

    Raises:
        UserError: a path has none, or the config names no path.
    """
    words = []
    for split in ("TRAIN", "VAL"):
        for key in ("JSON", "IMAGES"):
            if not (path := Path(cfg.DATA[split][key])).name:
                continue
            ends = [folder.joinpath(*path.parts[start:]) for start in range(path.is_absolute(), len(path.parts))]
            there = next((end for end in ends if end.exists()), None)
            if there is None:
                raise UserError(f"--data {folder}: it has no {ends[-1].name}, the run's DATA.{split}.{key}, {path}")
            words += [f"DATA.{split}.{key}", str(there)]
    if not words:
        raise UserError("--data: the run names its data in DATASETS: set DETECTRON2_DATASETS to the folder instead")
    return words
