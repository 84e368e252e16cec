"""Detection data: from a set in COCO's form to the batches of a run."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from detection.annotations.categories import class_list
from detection.annotations.masks import BadMask, read_mask
from detection.annotations.values import as_id, read_crowd
from detection.images import TrainingMapper, channels_first, read_checked, resize_for_test
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.images.reading import UnreadableImage
from engine.train.fingerprint import fingerprint
from engine.train.loading import load_batches
from engine.train.sampling import TrainingBatches, derive_seed, repeat_factors

from detectron2.config import CfgNode
from detectron2.data import detection_utils as d2_utils
from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)


@dataclass
class DetectionData:
    """A set in COCO's form, ready to use.

    Attributes:
        name: for messages.
        json_path, image_root: where it lies: its json, or the file or folder of another format.
        coco: the content, as of a json.
        class_names: in the order of the model's class indices.
        category_ids: the json's own id of each class (COCO's have gaps), whole numbers or texts.
        with_masks: whether ``records`` have segmentations.
        left_out: what of the json is not in ``coco``, in words; "" for nothing.
    """

    name: str
    json_path: Path
    image_root: Path
    coco: dict
    class_names: list[str]
    category_ids: list[int | str]
    with_masks: bool = True
    left_out: str = ""

    @property
    def crowds(self) -> int:
        """How many annotations are crowds."""
        return sum(map(read_crowd, self.coco["annotations"]))

    def records(self) -> list[dict]:
        """One dict an image in Detectron2's form: file_name, image_id, height, width, and annotations with boxes
        (x, y, w, h in pixels), class indices, ``iscrowd`` (0 or 1) and segmentation, each in the one form that the
        mapper knows, whatever the json has; boxes and polygons are floats, since Detectron2 cuts the fractions off
        whole numbers that it resizes."""
        index_of = {category: index for index, category in enumerate(self.category_ids)}
        images = sorted(self.coco["images"], key=lambda image: image["id"])
        records = {
            image["id"]: {
                "file_name": str(self.image_root / image["file_name"]),
                "image_id": as_id(image["id"]),
                "height": int(image["height"]),
                "width": int(image["width"]),
                "annotations": [],
            }
            for image in images
        }
        for annotation in self.coco["annotations"]:
            image = records[annotation["image_id"]]
            record = {
                "bbox": [float(number) for number in annotation["bbox"]],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": index_of[annotation["category_id"]],
                # A difficult object of Pascal VOC is a crowd for evaluation alone.
                "iscrowd": int(read_crowd(annotation) and annotation.get("difficult") != 1),
            }
            if self.with_masks and (mask := _mask(annotation, image)):
                record["segmentation"] = mask
            image["annotations"].append(record)
        return list(records.values())

    def fingerprint(self) -> dict:
        """What tells this set from one with other images, boxes or classes, as ``engine.train.fingerprint``;
        masks are passed over, for their size."""
        index_of = {category: index for index, category in enumerate(self.category_ids)}
        images = sorted(repr((i["id"], i["file_name"], i["height"], i["width"])) for i in self.coco["images"])
        objects = sorted(
            repr((a["image_id"], index_of.get(a["category_id"]), a["bbox"], read_crowd(a)))
            for a in self.coco["annotations"]
        )
        return fingerprint(len(images), (text.encode() for text in (*images, *objects)))


def _mask(annotation: dict, image: dict) -> list | dict | None:
    try:
        return read_mask(annotation.get("segmentation"), image["height"], image["width"])
    except BadMask:  # whether it is needed is for the check to say
        return None


def make_data(
    name: str, json_path: Path, image_root: Path, coco: dict, with_masks: bool = True, left_out: str = ""
) -> DetectionData:
    """A set from the content of its json, which ``check_annotations`` has found sound."""
    names, index_of = class_list(coco)
    return DetectionData(name, Path(json_path), Path(image_root), coco, names, list(index_of), with_masks, left_out)


@contextmanager
def _named(record: dict):
    """Says which image it was that could not be read. (A header may be whole where the pixels are not.)"""
    try:
        yield
    except UnreadableImage as error:
        raise UserError(f"image {record['image_id']} cannot be used: {error}") from error
    except d2_utils.SizeMismatchError as error:
        raise UserError(f"image {record['image_id']} ({record['file_name']}) cannot be used: {error}") from error


class TrainingSet(Dataset):
    """Images with their targets, augmented. An item's position is one of ``TrainingBatches``, and its augmentation's
    draw depends on (seed, epoch, image id, which time) alone, whichever worker makes it, and after whatever else."""

    def __init__(self, records: list[dict], cfg: CfgNode):
        self.records, self.seed = records, cfg.SEED
        self.mapper = TrainingMapper(cfg)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: tuple[int, ...]) -> dict:
        epoch, index, *again = position
        record = self.records[index]
        seed = derive_seed(self.seed, epoch, record["image_id"], *again)
        np.random.seed(seed)
        random.seed(seed)
        with _named(record):
            return self.mapper(record)


def require_masks(records: list[dict], cfg: CfgNode, source: Path) -> None:
    """Raises UserError where Detectron2's mapper would die of the masks of images that are trained on."""
    if not all("segmentation" in a for r in records for a in r["annotations"]):
        raise UserError(f"{source}: MODEL.MASK_ON needs a segmentation in every annotation")
    objects = [a for r in records for a in r["annotations"] if not a["iscrowd"]]
    runs = sum(isinstance(a["segmentation"], dict) for a in objects)
    if runs and cfg.INPUT.MASK_FORMAT == "polygon":
        raise UserError(
            f"{source}: {runs} of {len(objects)} masks are run lengths, which polygons cannot stand for: set "
            "INPUT.MASK_FORMAT bitmask, which takes both"
        )
    if cfg.INPUT.CROP.ENABLED and runs < len(objects) and find_spec("shapely") is None:
        raise UserError(
            "INPUT.CROP cuts polygons by the package shapely, which is not installed: install it, or set "
            "INPUT.CROP.ENABLED False"
        )
    if cfg.INPUT.CROP.ENABLED and not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        raise UserError(
            "INPUT.CROP makes boxes from masks, which an image without objects does not have: set "
            "DATALOADER.FILTER_EMPTY_ANNOTATIONS True, or INPUT.CROP.ENABLED False"
        )


def to_learn_from(data: DetectionData, cfg: CfgNode) -> list[dict]:
    """The records of a set that a training with this config uses.

    Raises:
        UserError: there are none, or MODEL.MASK_ON finds masks that it cannot use.
    """
    records = data.records()
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [r for r in records if any(not a["iscrowd"] for a in r["annotations"])]
    if not records:
        crowds = f" (its {data.crowds} crowds, `iscrowd` 1, are none)" if data.crowds else ""
        raise UserError(f"{data.json_path}: no image has an annotation to learn from{crowds}")
    if cfg.MODEL.MASK_ON:
        require_masks(records, cfg, data.json_path)
    return records


def training_batches(data: DetectionData, cfg: CfgNode, start: int, rank: int, world_size: int) -> Iterator[list[dict]]:
    """This process's share of each step's batch (a list of dicts as Detectron2's models take them), from step
    ``start`` on.

    Raises:
        UserError: no image is left to train on, or the batch cannot be shared by the processes.
    """
    records = to_learn_from(data, cfg)
    groups = [int(r["width"] > r["height"]) for r in records] if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    try:
        batches = TrainingBatches(
            len(records),
            cfg.SOLVER.IMS_PER_BATCH,
            cfg.SEED,
            start=start,
            end=cfg.SOLVER.MAX_ITER,
            rank=rank,
            world_size=world_size,
            groups=groups,
            factors=_repeat_factors(records, cfg),
        )
    except ValueError as error:
        raise UserError(f"SOLVER.IMS_PER_BATCH: {error}") from error
    # Not in pinned memory: a batch is a list of dicts, and the model moves each image itself.
    return load_batches(TrainingSet(records, cfg), batches, _as_list, cfg.DATALOADER.NUM_WORKERS)


def objects_of_an_epoch(data: DetectionData, cfg: CfgNode) -> tuple[np.ndarray, np.ndarray | None]:
    """The classes (N,) of the objects that a training learns from, and how often each is in an epoch; None: once.

    Raises:
        UserError: as ``to_learn_from``.
    """
    records = to_learn_from(data, cfg)
    own = [[one["category_id"] for one in record["annotations"] if not one["iscrowd"]] for record in records]
    factors = _factors(records, cfg)
    labels = np.array([label for of_image in own for label in of_image], np.int64)
    return labels, None if factors is None else np.repeat(factors, list(map(len, own)))


def _factors(records: list[dict], cfg: CfgNode) -> np.ndarray | None:
    """As Detectron2's RepeatFactorTrainingSampler has them; None where every image is in every epoch once."""
    given = cfg.DATALOADER
    if not given.REPEAT_THRESHOLD:
        return None
    classes = [{one["category_id"] for one in record["annotations"]} for record in records]
    return repeat_factors(classes, given.REPEAT_THRESHOLD, given.get("REPEAT_SQRT", True))


def _repeat_factors(records: list[dict], cfg: CfgNode) -> np.ndarray | None:
    """The same, said aloud."""
    given, factors = cfg.DATALOADER, _factors(records, cfg)
    if factors is None:
        return None
    many = int((factors > 1).sum())
    logger.info(
        "DATALOADER.REPEAT_THRESHOLD %g: an epoch has %.0f images; %d of %d are in it more than once, up to %.3g times",
        given.REPEAT_THRESHOLD, factors.sum(), many, len(records), factors.max(),
    )  # fmt: skip
    return factors


def _as_list(items: list) -> list:
    return items


class TestSet(Dataset):
    """Images without targets, at test size, as Detectron2's models take them."""

    __test__ = False  # for pytest, which collects by name

    def __init__(self, records: list[dict], cfg: CfgNode):
        self.records, self.cfg = records, cfg

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        with _named(record):
            image = resize_for_test(read_checked(record, self.cfg), self.cfg)
        given = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        return given | {"image": channels_first(image)}


def same_size_batches(records: list[dict], max_images: int) -> list[list[int]]:
    """Indices of consecutive images of one size, ``max_images`` of them at most.

    Images of different sizes would be padded to a common one, and the squeeze (a mean over the map) would then
    depend on an image's neighbours.
    """
    batches: list[list[int]] = []
    for index, record in enumerate(records):
        size = (record["height"], record["width"])
        last = batches[-1] if batches else []
        if last and len(last) < max_images and size == (records[last[0]]["height"], records[last[0]]["width"]):
            last.append(index)
        else:
            batches.append([index])
    return batches


def test_batches(records: list[dict], cfg: CfgNode) -> Iterator[list[dict]]:
    """Batches for evaluation, of TEST.IMS_PER_BATCH images at most."""
    batches = same_size_batches(records, cfg.TEST.IMS_PER_BATCH)
    return load_batches(TestSet(records, cfg), batches, _as_list, cfg.DATALOADER.NUM_WORKERS)
