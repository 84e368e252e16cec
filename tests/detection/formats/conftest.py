"""The same small set in each of the three forms."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (40, 30)  # width, height
NAMES = ["cat", "dog"]
# Of each image its objects: class, left, top, right, bottom in pixels, in whole numbers that count from 0.
OBJECTS = {
    "a": [("dog", 0, 0, 40, 30), ("cat", 3, 4, 17, 29)],
    "b": [],
    "c": [("cat", 39, 29, 40, 30)],
    "d": [("dog", 10, 2, 30, 9), ("dog", 11, 3, 12, 25)],
}
SPLITS = {"train": ["a", "b", "c"], "val": ["d"]}


def xml(*objects, size=SIZE, filename="", more=""):
    """A file of Pascal VOC. Objects: (class, left, top, right, bottom, further tags)."""
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    items = [
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>1</truncated>{''.join(rest)}<bndbox>"
        f"<xmax>{right}</xmax><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom, *rest in objects
    ]
    return f"<annotation><filename>{filename}</filename>{stated}{''.join(items)}{more}</annotation>"


def line(name, left, top, right, bottom):
    width, height = SIZE
    numbers = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
    return " ".join(map(repr, (NAMES.index(name), *numbers)))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 90, dtype=np.uint8)).save(path)


@dataclass
class Forms:
    """Folders of the set, and its COCO json for each split."""

    voc: Path
    yolo: Path
    coco: Path

    def json_of(self, split):
        return self.coco / f"{split}.json"


@pytest.fixture
def forms(tmp_path):
    made = Forms(tmp_path / "voc", tmp_path / "yolo", tmp_path / "coco")
    for split, names in SPLITS.items():
        write(made.voc / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in names))
        images, annotations = [], []
        for number, name in enumerate(names, start=1):
            for place in (made.voc / "JPEGImages", made.yolo / "images" / split, made.coco):
                picture(place / f"{name}.jpg")
            write(made.voc / "Annotations" / f"{name}.xml", xml(*OBJECTS[name]))
            write(made.yolo / "labels" / split / f"{name}.txt", "\n".join(line(*one) for one in OBJECTS[name]))
            images.append({"id": number, "file_name": f"{name}.jpg", "width": SIZE[0], "height": SIZE[1]})
            for one, *(left, top, right, bottom) in OBJECTS[name]:
                box = [left, top, right - left, bottom - top]
                own = {"id": len(annotations) + 1, "image_id": number, "category_id": NAMES.index(one) + 1}
                annotations.append({**own, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write(made.json_of(split), json.dumps(content))
    write(made.yolo / "data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return made
