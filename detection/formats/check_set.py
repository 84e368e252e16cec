"""A detection set of any form checked by itself, and written anew without what was wrong: what the tool does."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detection.annotations.check import check_annotations
from detection.annotations.mend import mend
from detection.annotations.report import AnnotationReport
from detection.annotations.values import LISTS
from detection.formats.read import YAML, read_annotations
from engine.errors import UserError
from engine.json_files import write_json


@dataclass
class Options:
    """The command line of ``tools/check_annotations.py``.

    Attributes:
        data: a set, as ``read_annotations`` takes it. images, split: as there.
        fix: the file for a COCO json in which nothing is wrong.
        report: the file for all problems as JSON.
        masks: every object needs a usable mask. deep: every image is decoded.
        shown: so many problems of each kind are listed; None for all.
    """

    data: Path
    images: Path | None = None
    split: str = ""
    fix: Path | None = None
    report: Path | None = None
    masks: bool = False
    deep: bool = False
    shown: int | None = None


def check_set(options: Options, say: Callable[[str], None] = print) -> AnnotationReport:
    """Checks a set as training and evaluation would, and writes what is asked for.

    Args:
        say: gets what there is to tell, a line or more at a time.

    Raises:
        UserError: there is no set of a known form, the file for the mended one exists, or something is wrong with the
            whole of it, which nothing mends.
    """
    if options.fix is not None and os.path.lexists(options.fix):
        raise UserError(f"--fix {options.fix} exists; name a new file, since none is ever overwritten")
    for path in (options.data, options.fix):
        if options.report is not None and path is not None and options.report.resolve() == path.resolve():
            raise UserError(f"--report {options.report} is another file's name: it would be overwritten")
    if options.split and options.data.is_file() and options.data.suffix.lower() not in YAML:
        raise UserError(f"--split {options.split}: {options.data} is one set; a folder or a data.yaml has several")
    found = read_annotations(options.data, options.images, options.split)
    check = partial(
        check_annotations,
        image_root=found.images,
        check_pixels="full" if options.deep else "header",
        need_masks=options.masks,
        for_evaluation=True,
        name=str(found.path),
    )
    report = check(found.coco, origin=found.origin)
    say(report.format(len(report.problems) if options.shown is None else options.shown))
    if options.report is not None:
        say(f"written: {report.write(options.report)}")
    if options.fix is not None:
        _fix(options.fix, found.coco, report, check, say)
    return report


def _fix(path: Path, coco: dict, report: AnnotationReport, check: Callable, say: Callable[[str], None]) -> None:
    result = mend(coco, report, check)
    for change in result.changes:
        say(change)
    because = f", {result.gone} of them only because their image went" if result.gone else ""
    say(f"mended {result.mended} records, dropped {result.dropped}{because}")
    try:
        write_json(path, result.coco, indent=None)
    except ValueError as error:  # in what is not checked, of which JSON has no form
        raise UserError(
            f"{report.source}: not written, for a key that is not read here holds NaN or infinity (a segmentation is "
            f"read with --masks): {error}"
        ) from None
    left = ", ".join(f"{len(result.coco[section])} {section}" for section in LISTS)
    say(f"written: {path} with {left}; its images are in {report.image_root}")
