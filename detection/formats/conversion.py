"""A set of another format on its way into COCO's: records, and beside them where each came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from detection.annotations.image_files import DamagedImage, inspect_image
from detection.annotations.origin import Origin
from detection.annotations.report import Problem

Size = tuple[int, int]
"""Width and height of an image in pixels, upright."""


class Conversion:
    """Collects images, objects and what cannot be read of them.

    Args:
        names: of each category id.
        unit, classes: as of ``Origin``.
        images: the folder that file names are relative to.

    Attributes:
        coco: the three lists, as of a COCO file. Ids of images and annotations count from 1.
        origin: the places of their records.
    """

    def __init__(self, names: dict[int, str], unit: str, classes: str, images: Path):
        self.images = images
        categories = [{"id": number, "name": name} for number, name in names.items()]
        self.coco: dict[str, list] = {"images": [], "annotations": [], "categories": categories}
        self.origin = Origin(unit, classes)

    def add_image(self, file_name: str, label: str, size: Size | Problem | None) -> None:
        """Adds an image. Of one without a size there must be a problem: the size's own, or one that is added next."""
        known = {"width": size[0], "height": size[1]} if isinstance(size, tuple) else {}
        self.coco["images"].append({"id": len(self.coco["images"]) + 1, "file_name": file_name, **known})
        self.origin.labels.append(label)
        if isinstance(size, Problem):
            self.add_image_problem(size.kind, size.message)

    def add_image_problem(self, kind: str, message: str) -> None:
        """Adds what is wrong with the last image."""
        index = len(self.coco["images"]) - 1
        name = self.coco["images"][index]["file_name"]
        self.origin.problems.append(Problem(kind, "images", index, message, name, index + 1))

    def add_object(self, number: int, category: int, box: Sequence[float], **more: Any) -> None:
        """Adds an object of the last image.

        Args:
            number: which one of its file, from 1.
            box: x, y, width, height in pixels.
            more: further keys of its record.
        """
        image = len(self.coco["images"])
        box = [float(one) for one in box]
        area = max(box[2], 0.0) * max(box[3], 0.0)  # nobody has written it: it is no fault beside the box's
        record = {"id": len(self.coco["annotations"]) + 1, "image_id": image, "category_id": category, "bbox": box}
        self.coco["annotations"].append({**record, "area": area, "iscrowd": 0, **more})
        self.origin.objects.append((image - 1, number))

    def add_unreadable(self, number: int, kind: str, message: str) -> None:
        """Adds an object of the last image of which there is no record, only what is wrong with it."""
        image, index = self.coco["images"][-1], len(self.coco["annotations"])
        self.coco["annotations"].append({"id": index + 1, "image_id": image["id"]})
        self.origin.objects.append((image["id"] - 1, number))
        found = Problem(kind, "annotations", index, message, image["file_name"], image["id"], index + 1)
        self.origin.problems.append(found)


def sizes(paths: Iterable[Path]) -> list[Size | Problem]:
    """The size of each image file as it is seen upright, or what is wrong with it. Many threads read headers, for file
    systems that are slow to answer."""
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(size_of, paths))


def size_of(path: Path) -> Size | Problem:
    """The size of an image file as it is seen upright, or what is wrong with it."""
    wrong = partial(Problem, section="images", index=0)
    try:
        found = inspect_image(path, max_pixels=0)
    except FileNotFoundError:
        return wrong("missing_image", message=f"there is no file {path}")
    except DamagedImage as error:
        return wrong("unreadable_image", message=str(error))
    return found.width, found.height


def relative(path: Path, folder: Path) -> str:
    """A path as it is named below a folder, with "/"; the whole one where it lies elsewhere."""
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return str(path.absolute())
