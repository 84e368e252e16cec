"""Training that is killed, or asked to end, at random moments, and resumed until it is done."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from soak.pool import Outcome, Trial, spread
from soak.processes import adopt_orphans, descendants, end_all, kill
from soak.runs import ENDS_LATEST, Data, Reference, Running, Variant, difference, torn, uninterrupted

MOST_KILLS = 5  # of a run; seeds have 1 to 5 in turn
KILLED = (
    Variant("classification"),
    Variant("detection"),
    Variant("classification", workers=2),
    Variant("detection", workers=2),
    Variant("classification", processes=2, launched=True),
    Variant("detection", workers=1, processes=2, launched=True),
    Variant("classification", processes=2),
    Variant("detection", processes=2),
)
TERMINATED = (
    Variant("classification", processes=2),
    Variant("detection", processes=2, launched=True),
    Variant("classification", workers=1, processes=2, launched=True),
    Variant("detection", workers=1, processes=2),
)
_ORPHANS_END = 30  # seconds, for data workers to notice that nobody is left
_ALL_END = 90  # seconds, from a signal to the end of all processes


def _prepare(folder: Path, variants: tuple[Variant, ...], one: Callable) -> Trial:
    data = Data(folder.parent / "runs")

    def trial(seed: int, place: Path) -> Outcome:
        adopt_orphans()
        variant, random = variants[seed % len(variants)], np.random.default_rng(seed)
        try:
            return one(data, variant, uninterrupted(data, variant), random, place, seed)
        finally:
            end_all()

    return trial


def prepare_kills(folder: Path) -> Trial:
    """Trials of up to ``MOST_KILLS`` kills each."""
    return _prepare(folder, KILLED, _kill)


def prepare_terminations(folder: Path) -> Trial:
    """Trials of one SIGTERM to one process of two."""
    return _prepare(folder, TERMINATED, _terminate)


def _kill(
    data: Data, variant: Variant, reference: Reference, random: np.random.Generator, place: Path, seed: int
) -> Outcome:
    run, kills, most = place / "run", 0, 1 + seed % MOST_KILLS

    def outcome(result: str, fault: str = "") -> Outcome:
        return Outcome(variant.name, result, fault and f"{fault}\nafter {kills} kills", kills or 1)

    while True:
        words = data.words(variant, run) + (["--resume"] if kills else [])
        running = Running(variant.tool, words, place / f"log_{kills}.txt", variant)
        moment = _moment(reference, random) if kills < most else ENDS_LATEST
        if (codes := running.wait(moment)) is not None:
            if any(codes):
                return outcome("failed", f"exit codes {codes}:\n{running.text[-1500:]}")
            fault = difference(run, reference.run)
            return outcome("differs" if fault else "equal", fault or torn(run))
        if kills == most:
            return outcome("hang", f"no end after {moment:.0f} s:\n{running.text[-1500:]}")
        kills += 1
        trainers = running.trainers()
        if trainers and random.random() < 0.5:  # one process, as where memory ran out: the others have to end
            kill([trainers[int(random.integers(len(trainers)))]])
            if not variant.launched:  # no launcher looks after the others
                kill(running.started)
            if running.wait(_ALL_END) is None or not _alone(_ORPHANS_END):
                return outcome("orphans", f"a process goes on after the kill of another:\n{running.text[-1500:]}")
        end_all()


def _moment(reference: Reference, random: np.random.Generator) -> float:
    """Seconds after the start: mostly while it trains, now and then before or after that."""
    if random.random() < 0.8:
        return float(random.uniform(reference.began, reference.trained))
    return float(random.uniform(0.5 * reference.began, reference.ended))


def _alone(limit: float) -> bool:
    """Waits until nothing is left of what this process has started."""
    end = time.monotonic() + limit
    while descendants(os.getpid()):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _terminate(
    data: Data, variant: Variant, reference: Reference, _random: np.random.Generator, place: Path, seed: int
) -> Outcome:
    run = place / "run"
    running = Running(variant.tool, data.words(variant, run), place / "log.txt", variant)

    def outcome(result: str, fault: str = "") -> Outcome:
        return Outcome(variant.name, result, fault and f"{fault}\n{running.text[-1500:]}")

    metrics = run / "metrics.jsonl"  # its first line: all processes are in the loop, and catch signals
    while running.wait(0.02) is None and not (metrics.is_file() and metrics.stat().st_size):
        pass
    if running.wait(0.6 * spread(seed) * (reference.trained - reference.began)) is not None:
        return outcome("over before the signal", difference(run, reference.run))
    os.kill(running.trainers()[seed // len(TERMINATED) % 2], signal.SIGTERM)
    codes = running.wait(_ALL_END)
    if codes is None:
        return outcome("hang", f"not all have ended {_ALL_END} s after SIGTERM to one")
    if not _alone(_ORPHANS_END):
        return outcome("orphans", "a process goes on after all others have ended")
    stopped = "error: stopped by" in running.text
    if stopped and not list(run.glob("checkpoint_*.pth")):
        return outcome("stopped", "no checkpoint was written")
    if "stopped by None" in running.text:
        return outcome("stopped", "the message does not name the signal")
    again = Running(variant.tool, [*data.words(variant, run), "--resume"], place / "again.txt", variant)
    if (codes := again.wait()) is None or any(codes):
        return outcome("resume failed", f"exit codes {codes}:\n{again.text[-1500:]}")
    fault = difference(run, reference.run) or torn(run)
    how = "stopped" if stopped else "ended"  # without a message, which the first process alone prints
    if "Traceback" in running.text:  # of a process that waits for the one that has ended
        how += ", the other with a traceback"
    return outcome(f"{how}, then equal", fault)
