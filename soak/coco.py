"""COCO-format files and detections changed at random, through check, training and evaluation."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pycocotools import mask as run_lengths

from detection.coco_ap.average_precision import evaluate_coco
from detection.config import load_config
from detection.data import DetectionData, test_batches, training_batches
from detection.train import load_data
from engine.config.shipped import shipped_config
from engine.errors import UserError
from soak.folders import digest
from soak.mutation import mutate_bytes, mutate_json
from soak.pool import Outcome, Trial, last_traceback
from synthetic.shapes import generate_shapes

SIZE = 64  # pixels
SETTINGS = [
    "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "1",
    "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "4",
]  # fmt: skip


def prepare_coco(folder: Path) -> Trial:
    """A small sound set, and the trials of it."""
    shapes = generate_shapes(folder / "shapes", train=4, val=1, size=SIZE)
    coco = json.loads(shapes.train_json.read_bytes())
    _with_run_lengths(coco)

    def trial(seed: int, place: Path) -> Outcome:
        random = np.random.default_rng(seed)
        (place / "in").mkdir()
        file = place / "in" / "annotations.json"
        shutil.copytree(shapes.train_images, place / "in" / "images")
        try:
            if random.random() < 0.25:
                return _detections(coco, file, random)
            return _annotations(coco, file, place, random)
        finally:
            shutil.rmtree(place)

    return trial


def _with_run_lengths(coco: dict) -> None:
    """A third of the masks as run lengths, and every seventh object a crowd."""
    for number, annotation in enumerate(coco["annotations"]):
        if number % 3 == 0:
            mask = run_lengths.merge(run_lengths.frPyObjects(annotation["segmentation"], SIZE, SIZE))
            annotation["segmentation"] = {"size": [SIZE, SIZE], "counts": mask["counts"].decode()}
        annotation["iscrowd"] = int(number % 7 == 0)


def _annotations(coco: dict, file: Path, place: Path, random: np.random.Generator) -> Outcome:
    file.write_bytes(mutate_json(copy.deepcopy(coco), random))
    masks, drop = bool(random.integers(2)), bool(random.integers(2))
    images = str(file.parent / "images")
    words = ["DATA.TRAIN.JSON", str(file), "DATA.TRAIN.IMAGES", images, "DATA.VAL.JSON", str(file)]
    words += ["DATA.VAL.IMAGES", images, "MODEL.MASK_ON", str(masks), "INPUT.MASK_FORMAT", "bitmask", *SETTINGS]
    cfg = load_config(shipped_config("demo.yaml"), words)
    kind = f"annotations{', masks' if masks else ''}{', bad records dropped' if drop else ''}"
    before, run = digest(file.parent), place / "run"
    run.mkdir()
    try:
        try:
            data = load_data(cfg, "TRAIN", run, drop)
            to_evaluate = load_data(cfg, "VAL", run, drop)
            batches = training_batches(data, cfg, 0, 0, 1)
        except UserError as error:
            result, fault = "refused", "" if str(error).strip() else "an empty message"
        else:
            result, fault = "read", _use(batches, to_evaluate, cfg)
    except Exception:
        return Outcome(kind, "traceback", last_traceback())
    changed = "" if digest(file.parent) == before else "the input was changed"
    return Outcome(kind, result, fault or changed)


def _use(batches: Iterator, data: DetectionData, cfg) -> str:
    """What training and evaluation do with a set that its check has let pass; what they refuse of it, if anything."""
    try:
        for _ in batches:
            pass
        records = data.records()
        for _ in test_batches(records, cfg):
            pass
        types = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        evaluate_coco(data.coco, _own_detections(data, records), types, class_names=data.class_names)
    except UserError as error:
        return f"passed the check, and was refused later: {error}"
    return ""


def _own_detections(data: DetectionData, records: list[dict]) -> list[dict]:
    """What a detector would find: in each image one object of each class."""
    found = []
    for record in records:
        mask = np.zeros((record["height"], record["width"]), np.uint8, order="F")
        mask[1:9, 1:9] = 1
        encoded = run_lengths.encode(mask)
        shape = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        found += [
            {"image_id": record["image_id"], "category_id": number, "bbox": [1.0, 1.0, 8.0, 8.0], "score": 0.5}
            | {"segmentation": shape}
            for number in data.category_ids
        ]
    return found


def _detections(coco: dict, file: Path, random: np.random.Generator) -> Outcome:
    """A detections file, or its ground truth, by the evaluation alone."""
    results = [
        {key: one[key] for key in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 1 / (number + 1)}
        for number, one in enumerate(coco["annotations"])
    ]
    for result in results[::2]:
        del result["segmentation"]
    truth, found = file, file.with_name("detections.json")
    which = int(random.integers(3))
    truth.write_bytes(mutate_json(copy.deepcopy(coco), random) if which == 0 else json.dumps(coco).encode())
    data = json.dumps(results).encode()
    if which:
        data = mutate_json(copy.deepcopy(results), random) if which == 1 else mutate_bytes(data, random)[0]
    found.write_bytes(data)
    before = digest(file.parent)
    kind = "detections" if which else "ground truth"
    try:
        try:
            result = evaluate_coco(truth, found, None if random.integers(2) else ("bbox",)).to_dict()
            json.dumps(result, allow_nan=False)
            outcome = Outcome(kind, "read")
        except UserError as error:
            outcome = Outcome(kind, "refused", "" if str(error).strip() else "an empty message")
    except Exception:
        return Outcome(kind, "traceback", last_traceback())
    return outcome if digest(file.parent) == before else Outcome(kind, outcome.result, "the input was changed")
