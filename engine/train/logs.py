"""What a run says while it trains: a line on the console, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import datetime
import inspect
import json
import logging
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path

import torch

from engine import compat  # noqa: F401  (before detectron2)
from engine.names import writable
from engine.report.metrics import read_metrics
from se_backbones.files import naming, write_atomically

from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage
from detectron2.utils.logger import setup_logger

METRICS_FILE = "metrics.jsonl"
logger = logging.getLogger("engine.run")


class _RunLog(MemoryHandler):
    """Keeps what is logged until the run has begun, and writes it to the run's log from then on.

    Raises OSError, which names the log, where that cannot be written to; nothing is written to it then.
    """

    def __init__(self):
        super().__init__(capacity=sys.maxsize, flushLevel=sys.maxsize)

    def open(self, path: Path) -> None:
        with naming(path):
            file = logging.FileHandler(path, encoding="utf-8")
        file.handleError = partial(self._lost, path)
        file.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
        file.setFormatter(_Writable(file))
        self.setTarget(file)
        self.flush()
        self.capacity = 1

    def _lost(self, path: Path, record: logging.LogRecord) -> None:
        error, file = sys.exc_info()[1], self.target
        if not isinstance(error, OSError):
            logging.Handler.handleError(file, record)
            return
        for log, handler in _handlers:
            if handler is self:
                log.removeHandler(self)
        self.buffer.clear()
        self.setTarget(None)
        with suppress(OSError):  # what it could not write, it would try to at exit
            file.stream.close()
        raise OSError(error.errno, error.strerror, str(path)) from error

    def close(self) -> None:
        file = self.target
        super().close()
        if file is not None:
            file.close()


_handlers: list[tuple[logging.Logger, logging.Handler]] = []  # those of the run that this process is in


def setup_logging(packages: Sequence[str]) -> None:
    """Logs to the console, in the first process, and to what ``log_to`` names; an earlier run in this process logs no
    more.

    Args:
        packages: the task's own.

    A console that is gone, or full, is written to no more, since a run should outlive its terminal.
    """
    rank = comm.get_rank()
    for log, handler in _handlers:
        log.removeHandler(handler)
        if isinstance(handler, _RunLog):
            handler.close()
    _handlers.clear()
    run_log = _RunLog()
    for name in ("engine", *packages, "se_backbones", "detectron2", "fvcore"):
        before = list(logging.getLogger(name).handlers)
        # Without its cache, by which it would leave out the console in a second run.
        log = inspect.unwrap(setup_logger)(None, distributed_rank=rank, name=name, abbrev_name=name.split(".")[0])
        for handler in log.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler.formatter, _Writable):
                handler.setFormatter(_Writable(handler))
                handler.handleError = partial(_lost_console, handler)
        log.addHandler(run_log)
        _handlers.extend((log, handler) for handler in log.handlers if handler not in before)


class _Writable(logging.Formatter):
    """A handler's lines as text that its stream can write: file names may be no UTF-8, and a console no Unicode."""

    def __init__(self, handler: logging.StreamHandler):
        super().__init__()
        self._formatter = handler.formatter
        self._encoding = getattr(handler.stream, "encoding", None) or "utf-8"

    def format(self, record: logging.LogRecord) -> str:
        line = writable(self._formatter.format(record))
        return line.encode(self._encoding, "backslashreplace").decode(self._encoding)


def log_to(run: Path) -> None:
    """Writes what was logged since ``setup_logging``, and what will be, to ``log.txt`` in the run folder; other
    processes than the first each to a file of their own. Raises OSError, then or later, as ``_RunLog``."""
    rank = comm.get_rank()
    for handler in {handler for _, handler in _handlers if isinstance(handler, _RunLog)}:
        handler.open(Path(run) / f"log.txt{f'.rank{rank}' if rank else ''}")


def make_writers(run: Path, max_iterations: int, start: int) -> list[EventWriter]:
    """The writers of the first process; none in the others.

    A resumed run repeats the steps since its checkpoint: their old figures are taken out of metrics.jsonl first.
    """
    if not comm.is_main_process():
        return []
    metrics = Path(run) / METRICS_FILE
    if metrics.exists():
        kept = [json.dumps(row) for row in read_metrics(metrics) if row["iteration"] <= start]
        write_atomically(metrics, "".join(f"{line}\n" for line in kept))
    return [
        _Console(max_iterations),
        _Naming(lambda: JSONWriter(str(metrics)), metrics),
        _Naming(lambda: _TensorBoard(str(run), purge_step=start + 1), Path(run) / "events.out.tfevents…"),
    ]


def _lost_console(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    """What a handler does that could not write a record; the standard one prints a traceback for each."""
    if not isinstance(sys.exc_info()[1], OSError):
        logging.Handler.handleError(handler, record)
        return
    for name in logging.root.manager.loggerDict:
        of_name = logging.getLogger(name)
        # A new list: the old one is being gone through.
        of_name.handlers = [other for other in of_name.handlers if getattr(other, "stream", None) is not handler.stream]


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
