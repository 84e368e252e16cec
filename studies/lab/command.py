"""What ``tools/study.py`` does with its command line."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.json_files import write_json
from engine.train.launch import under_torchrun
from studies.lab.cells import Plan, format_cells, plan
from studies.lab.outcome import outcome
from studies.lab.report import write_pages
from studies.lab.run import run_cells
from studies.lab.side_by_side import run_side_by_side
from studies.lab.study import Study


def run_study(study: Study, args: Namespace) -> None:
    """Runs a study's cells, or those that are chosen, and writes its result and page.

    Raises:
        UserError: anything the person can put right, with what to do.
    """
    made = plan(study, args.scale, Path(args.output), args.seeds, args.config, words(study, args))
    if args.list:
        print(format_cells(made))
        return
    if args.jobs > 1 and not args.report:
        run_side_by_side(made, args, args.jobs)
    elif not args.report:
        run_cells(made, args.cell, args.resume)
    if args.cell or not _first_process():
        return
    report(made, Path(args.json or Path("results", "studies", f"{study.name}.json")), Path(args.docs), args.note)


def words(study: Study, args: Namespace) -> list[str]:
    """The ``KEY VALUE`` words of a command line, with the flags that stand for a key. Raises UserError for --data
    where the study's data have no one place."""
    from studies.lab.tasks import KINDS

    found = list(args.overrides)
    if args.data:
        key = KINDS[study.base(args.scale).task].data
        if not key:
            raise UserError(
                f"{study.name} is one of detection, whose data have no one place: give DATA.TRAIN.JSON FILE "
                "DATA.TRAIN.IMAGES FOLDER DATA.VAL.JSON FILE DATA.VAL.IMAGES FOLDER, or set DETECTRON2_DATASETS"
            )
        found += [key, args.data]
    return found + (["MODEL.DEVICE", args.device] if args.device else [])


def report(made: Plan, path: Path, docs: Path, note: str | None = None) -> None:
    """Writes the result as JSON, and of it the study's page and the list of all."""
    content = outcome(made, note)
    if content["missing"]:
        print(f"{len(content['missing'])} of {len(made.cells)} cells are not there yet: the result is of the others")
    print(f"result: {write_json(path, content)}")
    print(f"page: {write_pages(path.parent, docs, [path.stem])[0]}")


def _first_process() -> bool:
    """After the runs: their processes have parted."""
    import os

    return not under_torchrun() or os.environ.get("RANK", "0") == "0"
