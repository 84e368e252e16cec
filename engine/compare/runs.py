"""The runs that are to be compared: which of them can be, and what is in the way of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import UserError
from engine.json_files import read_json
from engine.report.run_reader import Run, find, read_run
from engine.task import TaskInfo
from engine.train.checkpoint import load_checkpoint, newest_checkpoint

EVALUATION = "evaluation"  # the folder of one, in a run's


@dataclass
class Found:
    """Folders of runs of one task.

    Attributes:
        task: its name.
        folders: of the runs, in the order given.
        problems: why others are left out, a sentence each.
    """

    task: str
    folders: list[Path]
    problems: list[str] = field(default_factory=list)


def runs_of_one_task(folders: Sequence[str | Path]) -> Found:
    """The runs of the first one's task.

    Raises:
        UserError: a folder is not there, or fewer than two are left; says what is wrong with each of the others.
    """
    tasks: dict[Path, str] = {}
    problems, seen = [], set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"there is no run folder {folder}")
        if folder.resolve() in seen:
            problems.append(f"{folder} is named twice: compared once")
        elif (task := _task_of(folder)) is None:
            problems.append(
                f"{folder} is left out: no run that can be compared. It has neither result.json nor a checkpoint, "
                "which would say what its task is"
            )
        else:
            tasks[folder] = task
        seen.add(folder.resolve())
    wanted = next(iter(tasks.values()), "")
    for folder in [folder for folder, task in tasks.items() if task != wanted]:
        problems.append(f"{folder} is left out: its task is {tasks.pop(folder)}, and the first run's is {wanted}")
    if len(tasks) < 2:
        raise UserError("\n  ".join(["a comparison needs two runs of one task at least", *problems]))
    return Found(wanted, list(tasks), problems)


def _task_of(folder: Path) -> str | None:
    """The task's name by the result, else by the newest checkpoint; None where nothing tells."""
    try:
        said = read_json(folder / "result.json", "a run's result")
    except UserError:
        checkpoint = newest_checkpoint(folder)
        said = None if checkpoint is None else load_checkpoint(checkpoint)
    task = said.get("task") if isinstance(said, dict) else None
    return task if isinstance(task, str) else None


def read_runs(found: Found, task: TaskInfo) -> tuple[dict[str, Run], list[str]]:
    """The runs under names that tell them apart, and what is not as it should be, a sentence each."""
    runs = dict(zip(short_names(found.folders), (read_run(folder, task) for folder in found.folders), strict=True))
    problems = []
    for name, run in runs.items():
        if not run.figures:
            why = next((line for line in run.missing if line.startswith("result.json")), "result.json has no figures")
            problems.append(f"{name} is unfinished, or was never evaluated ({why}): its curves and settings are shown")
    return runs, problems


def short_names(folders: Sequence[Path]) -> list[str]:
    """As few of a path's last parts as tell the folders apart; an evaluation's with its run's."""
    parts = [_parts(folder.resolve()) for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def _parts(folder: Path) -> tuple[str, ...]:
    *before, last = folder.parts
    return (*before[:-1], f"{before[-1]}/{last}") if last == EVALUATION and before else folder.parts


def main_figure(run: Run) -> float | None:
    """The task's main figure of a run, in percent; None where there is none."""
    value = find(run.figures, run.task.main_figure.replace("/", "."))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
