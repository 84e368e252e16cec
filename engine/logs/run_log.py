"""A run's log: on the console, and in its folder."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from logging.handlers import MemoryHandler
from pathlib import Path

from engine import compat  # noqa: F401  (before detectron2)
from se_backbones.files import naming
from se_backbones.text import writable

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger


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


def _lost_console(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    """What a handler does that could not write a record; the standard one prints a traceback for each."""
    if not isinstance(sys.exc_info()[1], OSError):
        logging.Handler.handleError(handler, record)
        return
    for name in logging.root.manager.loggerDict:
        of_name = logging.getLogger(name)
        # A new list: the old one is being gone through.
        of_name.handlers = [other for other in of_name.handlers if getattr(other, "stream", None) is not handler.stream]
