"""Trials in processes of their own, where a crash, a hang or a traceback is an outcome like any other."""

from __future__ import annotations

import faulthandler
import itertools
import logging
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

_MEMORY = 6 * 2**30  # bytes that a trial may take beyond what its process has at the start
_TAIL, _LINE = 1500, 300  # characters of a log or traceback that are kept, and of one of its lines


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        kind: what was tried, as in "safetensors, cut".
        result: what happened, in a word or two.
        fault: what is wrong about it; empty where all is as it should be.
        weight: how much it counts for (the kills in it).
    """

    kind: str
    result: str
    fault: str = ""
    weight: int = 1


Trial = Callable[[int, Path], Outcome]  # (seed, an empty folder of the worker's own)


def try_all(trial: Trial, seed: int, count: int, folder: Path, processes: int, limit: float) -> Iterator:
    """Tries seed, seed + 1, … until the outcomes' weights come to ``count``.

    A trial depends on its seed alone. The workers are forked from this process, which has imported what they need.

    Args:
        limit: seconds after which a trial counts as a hang and is ended.

    Yields:
        (seed, outcome) in the order in which they end.
    """
    seeds, done, numbers = itertools.count(seed), 0, itertools.count()
    workers = [_Worker(trial, folder / str(next(numbers))) for _ in range(processes)]
    try:
        while True:
            for number, worker in enumerate(workers):
                in_flight = sum(other.seed is not None for other in workers)
                if worker.seed is None and done + in_flight < count:
                    workers[number] = worker = worker if worker.alive else _Worker(trial, folder / str(next(numbers)))
                    worker.give(next(seeds), limit)
            busy = [worker for worker in workers if worker.seed is not None]
            if not busy:
                return
            wait([worker.connection for worker in busy], timeout=0.2)
            for worker in busy:
                given = worker.seed
                if (outcome := worker.outcome(limit)) is not None:
                    done += outcome.weight
                    yield given, outcome
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    def __init__(self, trial: Trial, folder: Path):
        folder.mkdir(parents=True)
        self.seed: int | None = None
        self.alive = True
        self._deadline = 0.0
        self._log = folder / "log.txt"
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(trial, theirs, folder))
        self._process.start()
        theirs.close()

    def give(self, seed: int, limit: float) -> None:
        self.seed, self._deadline = seed, time.monotonic() + limit
        self.connection.send(seed)

    def outcome(self, limit: float) -> Outcome | None:
        """The outcome of the trial in hand, if it has one by now."""
        found = None
        try:
            if self.connection.poll():
                found = self.connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            number = -self._process.exitcode
            name = signal.Signals(number).name if number > 0 else f"exit code {-number}"
            found = Outcome("", "crash", f"the process ended by {name}:\n{self._tail()}")
            self.end()
        if found is None and time.monotonic() > self._deadline:
            os.kill(self._process.pid, signal.SIGUSR1)  # where it hangs, into its log
            time.sleep(0.5)
            found = Outcome("", "hang", f"no end after {limit:.0f} s:\n{self._tail()}")
            self.end()
        if found is not None:
            self.seed = None
        return found

    def end(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _tail(self) -> str:
        text = self._log.read_text(errors="replace")
        begin = max(text.rfind(word) for word in ("Fatal Python error", "Thread 0x", "Current thread"))
        return text[begin : begin + _TAIL] if begin >= 0 else text[-_TAIL:]


def _work(trial: Trial, connection: Connection, folder: Path) -> None:
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.enable(file=log)
    faulthandler.register(signal.SIGUSR1, file=log)
    logging.disable(logging.CRITICAL)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, resource.RLIM_INFINITY))
    for number in itertools.count():
        try:
            seed = connection.recv()
        except EOFError:
            return
        place = folder / str(number)
        place.mkdir()
        try:
            outcome = trial(seed, place)
        except BaseException:  # whatever it is, it belongs into the report
            outcome = Outcome("", "traceback", last_traceback())
        connection.send(outcome)


def spread(seed: int) -> float:
    """A number of 0..1; those of consecutive seeds lie evenly, however many there are."""
    return seed * (5**0.5 - 1) / 2 % 1


def last_traceback() -> str:
    """The exception in hand: its last lines, long ones cut."""
    lines = (line if len(line) < _LINE else f"{line[:_LINE]} …" for line in traceback.format_exc().splitlines())
    return "\n".join(lines)[-_TAIL:]
