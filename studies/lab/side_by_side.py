"""Several of a study's cells at a time, each by a command of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.cores import usable_cores
from engine.errors import UserError
from engine.run.command_line import keep_work_when_killed
from studies.lab.cells import Cell, Plan
from studies.lab.run import cells_to_make, seconds_of
from studies.lab.words import span

PATIENCE = 120  # seconds for a run to save and end


def run_side_by_side(plan: Plan, args: Namespace, jobs: int, say: Callable[[str], None] = print) -> None:
    """Makes the cells that are missing, so many at a time, each by ``tools/study.py --cell`` in a process of its own
    with its share of the processor's cores. On two cores small networks come out a good deal faster in two processes of
    one thread than one after the other with two.

    Args:
        args: the command line's; ``args.cell``: the numbers of the cells to make.
        say: is given a line for each cell, and the runs' own lines.

    Raises:
        UserError: as ``run_cells``; or a run failed, whose reason stands in its lines. The others are then told to save
            and end, as they are by Ctrl-C and SIGTERM.
    """
    waiting = {cell.folder: cell for cell in cells_to_make(plan, args.cell, args.resume) if not cell.done}
    total, times = len(waiting), []
    keep_work_when_killed()
    with _ended(say) as running:
        while waiting or running:
            for cell in [cell for cell in waiting.values() if cell.source is None or cell.source.done]:
                if len(running) < jobs:
                    running.append(_Job(waiting.pop(cell.folder), _words(args, cell), jobs, say))
                    say(f"{running[-1].name}: {total - len(waiting)} of {total}, in {cell.folder}")
            time.sleep(0.1)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                job.end()
                times += [seconds] if (seconds := seconds_of(job.cell)) else []
                left = sum(not cell.evaluates for cell in waiting.values()) + len(running)
                about = f", about {span(left * sum(times) / len(times) / jobs)} left" if times and left else ""
                say(f"{job.name}: done{about}")


@dataclass
class _Job:
    cell: Cell
    words: Sequence[str]
    jobs: int
    say: Callable[[str], None]

    def __post_init__(self):
        self.name = f"cell {self.cell.number} ({self.cell.row.name}, seed {self.cell.seed})"
        share = {"OMP_NUM_THREADS": str(max(usable_cores() // self.jobs, 1)), "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            [sys.executable, *self.words],
            env={**share, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C comes to this process, which tells them
        )
        self.reader = threading.Thread(target=self._relay, daemon=True)
        self.reader.start()

    def _relay(self) -> None:
        for line in self.process.stdout:
            if line.strip():
                self.say(f"[{self.cell.number}] {line.rstrip()}")

    def end(self) -> None:
        """Raises UserError where it failed."""
        self.reader.join()
        if self.process.returncode or not self.cell.done:
            raise UserError(
                f"{self.name} failed with exit code {self.process.returncode}; see its lines above, which begin with "
                f"[{self.cell.number}], and {self.cell.folder / 'log.txt'}. What is whole stays: mend it and go on "
                "with --resume"
            )


@contextlib.contextmanager
def _ended(say: Callable[[str], None]) -> Iterator[list[_Job]]:
    """A list of jobs, none of which outlives the block."""
    running: list[_Job] = []
    try:
        yield running
    finally:
        if running:
            say(f"telling {len(running)} runs to save and end")
        for job in running:
            job.process.terminate()
        for job in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(PATIENCE)
            job.process.kill()
            job.reader.join(1)


def _words(args: Namespace, cell: Cell) -> list[str]:
    """The command line that makes one cell alone."""
    words = [sys.argv[0], args.name, "--cell", str(cell.number), "--resume"]
    for flag in ("scale", "seeds", "config", "data", "output", "device"):
        if (value := getattr(args, flag)) is not None:
            words += [f"--{flag}", str(value)]
    return words + list(args.overrides)
