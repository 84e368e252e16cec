"""Where the records of a set that was converted to COCO's form came from, so that messages can say it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from detection.annotations.report import Problem


@dataclass
class Origin:
    """The files behind a converted set, whose annotations and images have ids that nobody else knows.

    Attributes:
        unit: what an annotation is in its file: "object" or "line".
        classes: what names the classes.
        labels: the file with the objects of each image, in the order of ``images``.
        objects: of each annotation the position of its image, and its number in that file, counted from 1.
        problems: what was found while converting: what cannot be said of COCO's records.
    """

    unit: str
    classes: str
    labels: list[str] = field(default_factory=list)
    objects: list[tuple[int, int]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def place(self, section: str, index: int) -> str:
        """Where a record is, as in ``labels/a.txt, line 3``."""
        if section == "categories":
            return self.classes
        if section == "images":
            return self.labels[index]
        image, number = self.objects[index]
        return f"{self.labels[image]}, {self.unit} {number}"

    def placed(self, found: Iterable[Problem]) -> list[Problem]:
        """The problems of a check and of the conversion, each with its place. What the conversion could not read is not
        named again for what it therefore lacks."""
        known = {(problem.section, problem.index) for problem in self.problems if problem.is_error}
        rest = [one for one in found if one.kind == "box_form" or (one.section, one.index) not in known]
        return [replace(one, place=one.place or self.place(one.section, one.index)) for one in [*self.problems, *rest]]
