"""A run's figures while it trains: a line on the console, metrics.jsonl, and what LOGGERS names."""

from __future__ import annotations

import datetime
import json
import logging
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from engine import compat  # noqa: F401  (before detectron2)
from engine.report.metrics import METRICS_FILE, read_metrics
from se_backbones.files import naming, write_atomically

from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage

logger = logging.getLogger("engine.run")


def make_writers(
    run: Path,
    max_iterations: int,
    start: int,
    loggers: Sequence[str] = ("tensorboard",),
    trackers: Sequence[EventWriter] = (),
) -> list[EventWriter]:
    """The writers of the first process; none in the others.

    A resumed run repeats the steps since its checkpoint: their old figures are taken out of metrics.jsonl first.

    Args:
        start: after how many steps the run goes on; 0 for a new one.
        loggers: LOGGERS.
        trackers: what of them has begun already, see ``engine.logs.trackers.begin_trackers``.

    Raises:
        OSError: a file cannot be written.
    """
    if not comm.is_main_process():
        return []
    metrics = Path(run) / METRICS_FILE
    if metrics.exists():
        kept = [json.dumps(row) for row in read_metrics(metrics) if row["iteration"] <= start]
        write_atomically(metrics, "".join(f"{line}\n" for line in kept))
    # Trackers before metrics.jsonl: what a kill leaves in that file alone would never reach the services.
    writers = [_Console(max_iterations), *trackers, _Naming(lambda: JSONWriter(str(metrics)), metrics)]
    if "tensorboard" in loggers:
        events = Path(run) / "events.out.tfevents…"
        writers.append(_Naming(lambda: _TensorBoard(str(run), purge_step=start + 1), events))
    return writers


class _Naming(EventWriter):
    """Another writer, whose OSErrors name its file."""

    def __init__(self, make: Callable[[], EventWriter], path: Path):
        self.path = path
        with naming(path):
            self.writer = make()

    def write(self) -> None:
        with naming(self.path):
            self.writer.write()

    def close(self) -> None:
        with naming(self.path):
            self.writer.close()


class _TensorBoard(TensorboardXWriter):
    """Detectron2's; it waits for the thread that writes, which would hand on its errors a period later, or never."""

    def __init__(self, *args, **kwargs):
        threading.excepthook = _ignore_errors_handed_on
        super().__init__(*args, **kwargs)

    def write(self) -> None:
        super().write()
        self._writer.flush()


def _ignore_errors_handed_on(args: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread raises its error a second time, for nobody but the console."""
    if not (type(args.thread).__module__.startswith("tensorboard.") and isinstance(args.exc_value, OSError)):
        threading.__excepthook__(args)


_beside: list[Callable[[float], str]] = []  # what is said at the end of a console's line


@contextmanager
def saying_beside(note: Callable[[float], str]) -> Iterator[None]:
    """A block whose runs end each line on the console with what ``note(seconds that are left of the run)`` gives: how
    far a set of runs has come, say."""
    _beside.append(note)
    try:
        yield
    finally:
        _beside.remove(note)


class _Console(EventWriter):
    """One line: step, losses, learning rate, images/s, the share of time spent waiting for data, memory, time left."""

    def __init__(self, max_iterations: int):
        self.max_iterations = max_iterations

    def write(self) -> None:
        storage = get_event_storage()
        histories = storage.histories()
        if "time" not in histories:  # an evaluation before the first step of a resumed run
            return
        step_seconds = histories["time"].median(50)
        eta = step_seconds * (self.max_iterations - storage.iter)
        storage.put_scalar("eta_seconds", eta, smoothing_hint=False)
        parts = "  ".join(
            f"{name.removeprefix('loss_')} {history.median(20):.3f}"
            for name, history in histories.items()
            if name.startswith("loss_")
        )
        waiting = histories["data_time"].avg(50) / max(histories["time"].avg(50), 1e-9)
        logger.info(
            f"step {storage.iter}/{self.max_iterations}  loss {histories['total_loss'].median(20):.3f}"
            f"{f' ({parts})' if parts else ''}  lr {histories['lr'].latest():.4g}  "
            f"{histories['images_per_second'].median(50):.1f} img/s (data {waiting:.0%})  {_memory()}  "
            f"eta {datetime.timedelta(seconds=int(eta))}" + "".join(f"  {note(eta)}" for note in _beside)
        )


def _memory() -> str:
    """Peak memory: the GPU's where there is one in use, else the process's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
