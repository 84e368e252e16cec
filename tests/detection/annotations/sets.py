"""A small set in which nothing is wrong, and how something in it is changed."""

import copy

from PIL import Image

from tests.detection.changes import set_at

SQUARE = [[2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]]


def good():
    """Six images, two categories with gapped ids, four annotations; nothing wrong."""
    names = ("a.jpg", "b.png", "c.bmp", "d.webp", "e.tif", "f.gif")

    def annotation(identity, image_id, category_id, **more):
        box = [2.0, 2.0, 10.0, 10.0]
        record = {
            "id": identity,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": 100.0,
        }
        return {**record, "iscrowd": 0, "segmentation": copy.deepcopy(SQUARE), **more}

    return {
        "images": [
            {"id": 10 + index, "file_name": name, "width": 40, "height": 30} for index, name in enumerate(names)
        ],
        "annotations": [
            annotation(1, 10, 3),
            annotation(2, 10, 8),
            annotation(3, 11, 8),
            annotation(4, 12, 3, iscrowd=1, segmentation={"size": [30, 40], "counts": [100, 50, 1050]}),
        ],
        "categories": [{"id": 8, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def set_value(*path, value):
    return lambda coco, root: set_at(coco, path, value)


def box(*numbers):
    return set_value("annotations", 2, "bbox", value=list(numbers))


def shape(value):
    return set_value("annotations", 2, "segmentation", value=value)


def append(section, **changes):
    def change(coco, root):
        coco[section].append({**coco[section][1], **changes})

    return change


def cut_off(name, keep=0.6):
    def change(coco, root):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * keep)])

    return change


def overwrite(name, content):
    return lambda coco, root: (root / name).write_bytes(content)


def turned(name, orientation):
    """Saves a picture with an EXIF orientation."""

    def change(coco, root):
        exif = Image.Exif()
        exif[274] = orientation
        with Image.open(root / name) as image:
            image.load()
        image.save(root / name, exif=exif)

    return change
