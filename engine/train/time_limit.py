"""A training that ends within a time, its evaluation included."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_KEPT = 10  # measurements of a kind: the longest of them is expected next
_MARGIN = 1.1  # of what was measured
_UNKNOWN_SHARE = 0.1  # of the limit, for an evaluation before there was one
_AFTER_SHARE, _AFTER_MOST = 0.05, 60.0  # of the limit, and seconds: for the pictures and pages behind the evaluation


class TimeLimit:
    """Tells when to begin with what ends a run: a checkpoint, the final weights and their evaluation.

    What these will take is what they took before, the longest of the last ten times and a tenth more, and for the page
    and pictures of the result a twentieth of the limit, a minute at most. For an evaluation, where the run has made
    none, it is a tenth of the limit.

    Args:
        minutes: for the whole; 0: no limit.
        clock: gives seconds.

    Attributes:
        began: the clock's time from which it counts; at first that at which the limit was made.
        evaluates: whether an evaluation is part of the end.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic):
        self.minutes, self._clock, self.began = minutes, clock, clock()
        self._measured: dict[str, deque[float]] = {}
        self.evaluates = True

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """A block whose time counts as that of a "step", of "saving" or of an "evaluation"."""
        begin = self._clock()
        yield
        self.note(what, self._clock() - begin)

    def note(self, what: str, seconds: float) -> None:
        """Counts as ``measuring`` does."""
        self._measured.setdefault(what, deque(maxlen=_KEPT)).append(seconds)

    def expected(self, what: str) -> float | None:
        """Seconds; None of what was never measured."""
        return max(self._measured[what]) if what in self._measured else None

    @property
    def reached(self) -> bool:
        """Whether no time for another step is left beside the end's."""
        if not self.minutes:
            return False
        limit = 60.0 * self.minutes
        evaluation = self.expected("evaluation") if self.evaluates else 0.0
        if evaluation is None:
            evaluation = _UNKNOWN_SHARE * limit
        saving = 2 * (self.expected("saving") or 0.0)  # the checkpoint, and the final weights
        needed = _MARGIN * ((self.expected("step") or 0.0) + saving + evaluation)
        return self._clock() - self.began + needed + min(_AFTER_SHARE * limit, _AFTER_MOST) > limit
