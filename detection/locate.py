"""Where the sets of a detection config lie, and what is in them."""

from __future__ import annotations

import os
from pathlib import Path

from detection.formats.read import OTHER_FORMS, AnnotationSet, read_annotations
from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog


def read_split(cfg: CfgNode, split: str) -> tuple[str, AnnotationSet]:
    """The name and the unchecked content of the ``TRAIN`` or ``VAL`` set of a config.

    Raises:
        UserError: as ``locate`` and ``read_annotations``.
    """
    name, path, images = locate(cfg, split)
    return name, read_annotations(path, images, split.lower())


def locate(cfg: CfgNode, split: str) -> tuple[str, Path, Path | None]:
    """Name, place and image folder of the ``TRAIN`` or ``VAL`` set of a config; None for the folder of a set that has
    its own.

    DATA.<split> counts where its JSON is set, to any of the forms that ``read_annotations`` takes; else the first name
    in DATASETS, which may be any that is registered with Detectron2 as COCO-format or as Pascal VOC.

    Raises:
        UserError: nothing there; says where it was looked for and which ways there are.
    """
    own = cfg.DATA[split]
    if own.JSON:
        path = _find(own.JSON, "file or folder", f"DATA.{split}.JSON")
        if not own.IMAGES and path.is_file() and path.suffix.lower() not in OTHER_FORMS:
            raise UserError(f"DATA.{split}.JSON is {own.JSON}, but DATA.{split}.IMAGES, its image folder, is not set")
        return path.stem, path, _find(own.IMAGES, "folder", f"DATA.{split}.IMAGES") if own.IMAGES else None
    names = cfg.DATASETS.TRAIN if split == "TRAIN" else cfg.DATASETS.TEST
    if not names:
        raise UserError(f"the config names no {split} data: set DATA.{split}.JSON and IMAGES, or DATASETS")
    if len(names) > 1:
        raise UserError(f"DATASETS names several {split} sets ({', '.join(names)}); one is used: merge their jsons")
    name = names[0]
    if name not in DatasetCatalog.list():
        raise UserError(f"no data set is called {name!r} (DATASETS); those that Detectron2 knows: {_some_names()}")
    metadata = MetadataCatalog.get(name)
    is_voc = hasattr(metadata, "dirname") and hasattr(metadata, "split")  # what Detectron2's register_pascal_voc leaves
    if not is_voc and not hasattr(metadata, "json_file"):
        DatasetCatalog.get(name)  # sets registered by hand give their metadata when they are first read
    if is_voc:
        json_path, images = Path(metadata.dirname, "ImageSets", "Main", f"{metadata.split}.txt"), None
    elif getattr(metadata, "evaluator_type", None) == "coco" and hasattr(metadata, "json_file"):
        json_path, images = Path(metadata.json_file), Path(metadata.image_root)
    else:
        raise UserError(
            f"data set {name!r} is registered neither as COCO-format (a json file and an image folder) nor as Pascal "
            "VOC"
        )
    missing = [str(path.absolute()) for path in (json_path, images) if path and not path.exists()]
    if missing:
        raise UserError(
            f"data set {name} is not here. Looked for:\n  " + "\n  ".join(missing) + "\n"
            "The ways on:\n"
            "  COCO 2017: get train2017.zip, val2017.zip and annotations_trainval2017.zip from\n"
            "    https://cocodataset.org/#download, unpack them into datasets/coco, or set DETECTRON2_DATASETS to\n"
            "    the folder that holds coco/\n"
            "  data of your own in COCO format: --train-json FILE --train-images FOLDER\n"
            "    --val-json FILE --val-images FOLDER\n"
            "  data of your own as Pascal VOC or YOLO: --train-json FOLDER --val-json FOLDER\n"
            "  no data at all: make demo"
        )
    return name, json_path, images


def _find(path: str, kind: str, key: str) -> Path:
    candidates = [Path(path).expanduser()]
    if not candidates[0].is_absolute():
        candidates.append(Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / path)
    for candidate in candidates:
        if candidate.is_dir() if kind == "folder" else candidate.exists():
            return candidate
    looked = " and ".join(str(candidate.absolute()) for candidate in candidates)
    raise UserError(
        f"{key}: there is no {kind} {looked}. Give another one, or set DETECTRON2_DATASETS to the folder it is in"
    )


def _some_names() -> str:
    names = sorted(n for n in DatasetCatalog.list() if n.startswith("coco_20"))
    return ", ".join(names[:6]) + ", …"
