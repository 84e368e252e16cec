"""Making what is missing of a study's cells, one after the other, each by the ordinary run of its task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine import compat  # noqa: F401  (before detectron2)
from engine.device import choose_device
from engine.errors import UserError
from engine.json_files import read_json
from engine.logs.writers import saying_beside
from engine.train.launch import joined_processes, once
from studies.lab.cells import Cell, Plan
from studies.lab.surgery import cut
from studies.lab.words import span

from detectron2.utils import comm


def run_cells(plan: Plan, only: Sequence[int] = (), resume: bool = False, say: Callable[[str], None] = print) -> None:
    """Makes the cells that are missing. A whole run is kept, whichever study made it, and a run that was cut off goes
    on by its task's own resume.

    Args:
        only: numbers of the cells to make; none: all.
        resume: whether a run that was cut off may go on.
        say: is given a line for each cell, in the first process.

    Raises:
        UserError: a run was cut off and ``resume`` is not asked for, no such cell, a cell whose weights come from one
            that is not there yet, or what the run itself raises.
    """
    with joined_processes(choose_device(plan.cells[0].cfg.MODEL.DEVICE)):
        chosen = cells_to_make(plan, only, resume)
        progress = _Progress(chosen, say)
        for cell in chosen:
            if once(lambda cell=cell: cell.done):
                progress.skip(cell)
                continue
            with progress.at(cell), _lock(cell):
                _run(cell, resume)


def cells_to_make(plan: Plan, only: Sequence[int], resume: bool) -> list[Cell]:
    """The cells that a command is to make. Raises UserError as ``run_cells``."""
    chosen = _chosen(plan, only)
    begun = once(lambda: [str(cell.folder) for cell in chosen if cell.begun])
    if begun and not resume:
        raise UserError(
            f"{begun[0]} holds a run that was cut off. Go on from it with --resume, or begin again: remove that "
            "folder, or give another --output"
        )
    return chosen


def _chosen(plan: Plan, only: Sequence[int]) -> list[Cell]:
    if wrong := set(only) - {cell.number for cell in plan.runs}:
        raise UserError(f"--cell {min(wrong)}: {plan.study.name} has the cells 1 to {len(plan.runs)}; see --list")
    chosen = [cell for cell in plan.runs if not only or cell.number in only]
    for cell in chosen:
        if cell.source is not None and cell.source not in chosen and not cell.source.done:
            raise UserError(f"cell {cell.number} wants the weights of {cell.source.number}: run that one first")
    return chosen


def _run(cell: Cell, resume: bool) -> None:
    resume = once(lambda: resume and cell.begun) and not cell.evaluates
    words = [*cell.words, *once(lambda: cut(cell) if cell.row.surgery is not None else [])]
    options = cell.kind.options(cell.config, words, eval_only=cell.evaluates, resume=resume)
    cell.kind.run(options)


class _Progress:
    """Which cell of how many is at work, and when all of them will be done.

    The trainings that are left are taken to last as long as the mean of those that are whole, or else as the one at
    work.
    """

    def __init__(self, cells: Sequence[Cell], say: Callable[[str], None]):
        self.cells, self.say = cells, say if comm.is_main_process() else lambda line: None
        self.position, self.begin = 0, time.perf_counter()
        self.seconds = [seconds for cell in cells if cell.done and (seconds := seconds_of(cell))]

    def skip(self, cell: Cell) -> None:
        self.position += 1
        self.say(f"{self._head(cell)}: whole already, in {cell.folder}")

    @contextmanager
    def at(self, cell: Cell) -> Iterator[None]:
        self.position += 1
        self.begin = time.perf_counter()
        self.say(f"{self._head(cell)}: {'going on in' if cell.begun else 'in'} {cell.folder}")
        with saying_beside(self._note):
            yield
        seconds = time.perf_counter() - self.begin
        self.seconds += [seconds] * (not cell.evaluates)
        left = self._left(0.0)
        self.say(f"{self._head(cell)}: done in {span(seconds)}, {span(left)} left for all")

    def _head(self, cell: Cell) -> str:
        return f"cell {self.position} of {len(self.cells)} ({cell.row.name}, seed {cell.seed})"

    def _note(self, eta: float) -> str:
        return f"cell {self.position}/{len(self.cells)}, all in {span(self._left(eta))}"

    def _left(self, eta: float) -> float:
        """Seconds until all is done, where the run at work has ``eta`` left."""
        whole = self.seconds or [time.perf_counter() - self.begin + eta]
        missing = sum(not cell.done and not cell.evaluates for cell in self.cells[self.position :])
        return eta + missing * sum(whole) / len(whole)


def seconds_of(cell: Cell) -> float | None:
    """Seconds that a whole run took to train; None where it does not tell."""
    return read_json(cell.result, "a run's result").get("training_seconds")


@contextmanager
def _lock(cell: Cell) -> Iterator[None]:
    """Keeps two commands from making one run at a time. Raises UserError where another one is at it."""
    handle = once_here(lambda: _take(cell.folder.with_name(f".{cell.folder.name}.lock")))
    try:
        yield
    finally:
        if handle is not None:
            handle.close()  # gives the lock back; the file stays, for removing it would race with another's taking it


def once_here(function: Callable[[], object]) -> object | None:
    """As ``once``, for a result that cannot be handed to the other processes: they get None."""
    kept = []
    once(lambda: kept.append(function()))
    return kept[0] if kept else None


def _take(path: Path):
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path, "w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise UserError(f"another process is making {path.parent / path.name[1:-5]}: wait for it, or run other cells"
                        " (--cell)") from None  # fmt: skip
    except OSError:
        pass  # a file system without locks
    return handle
