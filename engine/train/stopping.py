"""SIGTERM and Ctrl-C end a run with its work saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from engine.errors import UserError

GRACE = 300  # seconds in which a run that is asked to end does: for the step that it is in, and the checkpoint
_ONE_REQUEST = 2  # seconds: a scheduler signals every process, and torchrun passes the signal on besides


class Stopped(UserError):
    """The run was asked to end, and did after saving."""

    def __init__(self, signal_name: str, iteration: int, run: Path):
        super().__init__(
            f"stopped by {signal_name} after step {iteration}; everything is saved in {run}. "
            f"The same command with --resume goes on from there"
        )


class StopRequest:
    """Notes SIGTERM and SIGINT while its block runs, so that the loop can end between two steps.

    Signals within two seconds of the first are the same request; a later one ends the process at once, as it would
    have without this class.
    """

    def __init__(self):
        self.signal_name: str | None = None
        self._make_error: Callable[[str], Exception] | None = None
        self._previous: dict = {}
        self._requested_at = 0.0
        self._process = os.getpid()

    @property
    def requested(self) -> bool:
        return self.signal_name is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there alone
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _handle(self, number, _frame) -> None:
        if os.getpid() != self._process:  # a worker process forked while the block ran: its parent stops it
            return
        if self.requested:
            if time.monotonic() - self._requested_at > _ONE_REQUEST:
                self.__exit__()
                signal.raise_signal(number)
            return
        self.signal_name, self._requested_at = signal.Signals(number).name, time.monotonic()
        if self._make_error is not None:
            raise self._make_error(self.signal_name)

    @contextmanager
    def interrupting(self, make_error: Callable[[str], Exception]):
        """Inside, a signal raises at once: for long work that may be cut off, such as an evaluation."""
        self._make_error = make_error
        try:
            if self.signal_name is not None:
                raise make_error(self.signal_name)
            yield
        finally:
            self._make_error = None
