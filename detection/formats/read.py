"""A detection set out of whatever a person names: a COCO json, or a folder or file of Pascal VOC or YOLO."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detection.annotations.origin import Origin
from detection.formats.voc import is_voc, read_voc, root_of_list
from detection.formats.yolo import is_yolo, read_yolo
from engine.errors import UserError
from engine.json_files import read_json

ROBOFLOW = "_annotations.coco.json"
YAML = (".yaml", ".yml")
OTHER_FORMS = (*YAML, ".txt")
"""Suffixes of files that are none of a COCO json."""
FORMS = (
    "a COCO json; a folder of Pascal VOC (Annotations/*.xml, JPEGImages/) or a list in its ImageSets/Main; a data.yaml "
    "of YOLO or the folder that it is in"
)


@dataclass
class AnnotationSet:
    """A detection set in COCO's form.

    Attributes:
        path: what was named. images: the folder that the file names are relative to.
        coco: the content, which is not checked: a person's own json, or what a set of another form says.
        origin: the places of its records; None for a json.
    """

    path: Path
    images: Path
    coco: dict
    origin: Origin | None = None


def read_annotations(path: Path, images: Path | None = None, split: str = "") -> AnnotationSet:
    """Reads a set of any of the ``FORMS``, which is told by what is there.

    Args:
        images: the image folder. A COCO json needs none where its images lie where ``image_folder`` looks for them, and
            YOLO has its own.
        split: train, val or test, of a folder or file that has several; "" for all of it.

    Raises:
        UserError: there is nothing of these forms, or of several, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir() and (path / ROBOFLOW).is_file():
        path = path / ROBOFLOW
    if path.suffix.lower() in YAML or (path.is_dir() and _of_folder(path) == "YOLO"):
        if images is not None:
            raise UserError(f"{path} names its images itself: leave the image folder {images} out")
        found = read_yolo(path, split)
        return AnnotationSet(path, found.images, found.coco, found.origin)
    if path.is_dir():
        found = read_voc(path, images, None, split)
        return AnnotationSet(path, found.images, found.coco, found.origin)
    if path.suffix.lower() == ".txt":
        root = root_of_list(path)
        if root is None:
            raise UserError(f"{path} is a list without Annotations/ in the folders above it; give {FORMS}")
        found = read_voc(root, images, path)
        return AnnotationSet(path, found.images, found.coco, found.origin)
    if path.suffix.lower() == ".xml":
        raise UserError(f"{path} is the annotation of one image; give {FORMS}")
    return AnnotationSet(path, images or image_folder(path), read_json(path, "annotations"))


def _of_folder(folder: Path) -> str:
    kinds = [name for name, fits in (("Pascal VOC", is_voc), ("YOLO", is_yolo)) if fits(folder)]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise UserError(f"{folder} looks like {' and like '.join(kinds)}: name the file or folder of one: {FORMS}")
    below = sorted(one.name for one in folder.iterdir() if one.is_dir() and (is_voc(one) or is_yolo(one)))
    hint = f"; there is one in {', '.join(below[:5])}" if below else ""
    raise UserError(f"{folder} is no detection set{hint}. Give {FORMS}")


def image_folder(json_path: Path) -> Path:
    """Where the images of a JSON lie: for ``SET/annotations/instances_val.json``, COCO's own way, ``SET/val`` if there
    is such a folder, else beside the JSON."""
    own = json_path.absolute().parents[1] / json_path.stem.removeprefix("instances_")
    return own if own.is_dir() else json_path.parent
