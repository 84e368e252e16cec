"""What is wrong with a COCO-format set, in a form to print, to write down and to act on."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from engine.errors import UserError
from engine.json_files import write_json
from engine.names import printable

MAX_SHOWN = 10

# Every kind of problem: whether it stops training, and its line in the listing.
KINDS = {
    "image_record": (True, "image records with a missing or wrong key"),
    "duplicate_image_id": (True, "image ids used more than once"),
    "duplicate_file_name": (False, "files listed as more than one image"),
    "missing_image": (True, "missing image files"),
    "unreadable_image": (True, "unreadable or cut-off image files"),
    "image_size": (True, "images whose size is not what the annotations say"),
    "label_file": (True, "files of annotations that cannot be read"),
    "no_label_file": (False, "images without a file of annotations, taken for images without objects"),
    "unlisted_picture": (False, "pictures without a file of annotations, passed over"),
    "category_record": (True, "category records with a missing or wrong key"),
    "duplicate_category_id": (True, "category ids used more than once"),
    "duplicate_category_name": (True, "category names used more than once"),
    "class_names": (True, "categories that are not the model's classes"),
    "annotation_record": (True, "annotations with a missing or wrong key"),
    "duplicate_annotation_id": (True, "annotation ids used more than once"),
    "label_record": (True, "objects that cannot be read"),
    "unknown_image": (True, "annotations of an image that is not listed"),
    "unknown_category": (True, "annotations of a category that is not listed"),
    "box_format": (True, "boxes that are not four numbers"),
    "box_not_finite": (True, "boxes with a number that is not finite"),
    "box_too_large": (True, "boxes with a number beyond any image"),
    "box_without_area": (True, "boxes without area"),
    "box_outside_image": (True, "boxes wholly outside their image"),
    "box_over_the_edge": (False, "boxes that reach out of their image: training clips them, AP takes them as they are"),
    "box_fraction": (False, "boxes of numbers in 0..1"),
    "box_form": (True, "boxes that are not x, y, width, height in pixels"),
    "crowd_flag": (True, "annotations whose `iscrowd` cannot be read"),
    "ignore_flag": (False, "annotations with `ignore`, which is not read: they are objects like any other"),
    "area": (True, "annotations whose `area` cannot be used for AP"),
    "missing_mask": (True, "annotations without a mask"),
    "bad_mask": (True, "masks that are neither polygons nor run lengths of their image's size"),
    "bad_polygon": (False, "objects with polygons of an odd count or under three points, which training leaves out"),
    "published_flaw": (False, "flaws of the published COCO 2017, which training leaves out"),
}


@dataclass(frozen=True)
class Problem:
    """One finding. Its record is `section`[`index`]: images[3], annotations[7] or categories[0], say.

    `place` is where that record came from, in a set that was converted, whose ids are not its own.
    """

    kind: str
    section: str
    index: int
    message: str
    file_name: str | None = None
    image_id: int | str | None = None
    annotation_id: int | str | None = None
    place: str | None = None

    @property
    def is_error(self) -> bool:
        """Whether it stops training (a warning does not)."""
        return KINDS[self.kind][0]

    @property
    def where(self) -> str:
        """The record, as a message names it."""
        named = [self.place or f"{self.section}[{self.index}]"]
        if self.annotation_id is not None and not self.place:
            named.append(f"id {self.annotation_id}")
        if self.image_id is not None and not self.place:
            named.append(f"image {self.image_id}")
        if self.file_name is not None:
            named.append(str(self.file_name))
        return printable(", ".join(named))

    def __str__(self) -> str:
        return f"{self.where}: {printable(self.message)}"


@dataclass
class AnnotationReport:
    """All problems of one set, in the order of KINDS and of the file. Empty `problems`: nothing to say.

    source: the json's path, or "annotations" for a dictionary. images, annotations, categories: their number.
    """

    source: str
    image_root: str
    images: int
    annotations: int
    categories: int
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.is_error]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if not problem.is_error]

    @property
    def ok(self) -> bool:
        """No error; there may be warnings."""
        return not self.errors

    @property
    def counts(self) -> dict[str, int]:
        """Problems of each kind that occurs."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def format(self, shown: int = MAX_SHOWN) -> str:
        """For people: a line of counts, then of each kind its count and its first `shown` problems."""
        lines = [
            f"{self.source}: {len(self.errors)} errors and {len(self.warnings)} warnings "
            f"in {self.images} images, {self.annotations} annotations, {self.categories} categories"
        ]
        for kind, count in self.counts.items():
            is_error, meaning = KINDS[kind]
            lines.append(f"{'error' if is_error else 'warning'}: {meaning}: {count}")
            of_kind = [problem for problem in self.problems if problem.kind == kind]
            lines += [f"  {problem}" for problem in of_kind[:shown]]
            if count > shown:
                lines.append(f"  ... and {count - shown} more")
        return "\n".join(lines)

    def write(self, path: str | os.PathLike) -> Path:
        """Writes everything as JSON: source, what was read, counts, and each problem with its record.

        Raises:
            OSError: the place cannot be written to.
        """
        content = {
            "source": self.source,
            "image_root": self.image_root,
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
            "ok": self.ok,
            "counts": self.counts,
            "problems": [{"error": problem.is_error, **asdict(problem)} for problem in self.problems],
        }
        return write_json(path, content)


@dataclass(frozen=True)
class DropSummary:
    """How many records went; `annotations_of_dropped` are sound ones whose image went."""

    images: int
    annotations: int
    annotations_of_dropped: int
    categories: int
    images_before: int
    annotations_before: int

    def __str__(self) -> str:
        parts = [f"{self.images} of {self.images_before} images"]
        if self.categories:
            parts.append(f"{self.categories} categor{'y' if self.categories == 1 else 'ies'}")
        gone = self.annotations + self.annotations_of_dropped
        parts.append(f"{gone} of {self.annotations_before} annotations")
        because = f" ({self.annotations_of_dropped} of them only because their image went)"
        return "dropped " + ", ".join(parts) + (because if self.annotations_of_dropped else "")


def drop_bad_records(coco: dict, report: AnnotationReport) -> tuple[dict, DropSummary]:
    """A copy of `coco` without the records that have errors, and without the annotations of dropped images.

    Records with warnings stay. Of records with one id, the first stays. `coco` itself is not changed; the
    records that stay are shared with it.

    Args:
        coco: the content that `report` was made from.

    Raises:
        UserError: the report is of other content, or has an error that no dropping mends.
    """
    sizes = {"images": report.images, "annotations": report.annotations, "categories": report.categories}
    if any(len(coco[section]) != size for section, size in sizes.items()):
        raise UserError(f"{report.source} has changed since it was checked; start again")
    of_the_whole = [problem for problem in report.errors if problem.kind in ("class_names", "box_form")]
    if of_the_whole:
        raise UserError(f"{report.source}: {of_the_whole[0].message}; dropping records does not mend this")
    bad = {section: {problem.index for problem in report.errors if problem.section == section} for section in sizes}
    images = [record for index, record in enumerate(coco["images"]) if index not in bad["images"]]
    categories = [record for index, record in enumerate(coco["categories"]) if index not in bad["categories"]]
    sound = [record for index, record in enumerate(coco["annotations"]) if index not in bad["annotations"]]
    # Annotations of a category that goes have an error of their own already: no sound record has their id.
    image_ids = {record["id"] for record in images}
    annotations = [record for record in sound if record["image_id"] in image_ids]
    summary = DropSummary(
        images=len(coco["images"]) - len(images),
        annotations=len(bad["annotations"]),
        annotations_of_dropped=len(sound) - len(annotations),
        categories=len(coco["categories"]) - len(categories),
        images_before=len(coco["images"]),
        annotations_before=len(coco["annotations"]),
    )
    return {**coco, "images": images, "annotations": annotations, "categories": categories}, summary
