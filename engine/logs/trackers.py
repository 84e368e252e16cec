"""Figures of a run for services beside it: Weights & Biases, MLflow; each where it is installed.

Which project or experiment, which server, and whether anything is sent at all, is told to them in their own way: by
WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, … in the environment.
"""

from __future__ import annotations

import importlib
import logging
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.json_files import read_json, write_json
from engine.report.metrics import METRICS_FILE, read_metrics

from detectron2.utils.events import EventWriter, get_event_storage

KNOWN_FILE = "loggers.json"  # in the run's folder: service → the run's name there, for a start that goes on
_PARAMETERS_AT_ONCE, _LONGEST_VALUE = 100, 500  # what every MLflow server takes

logger = logging.getLogger("engine.run")


class Tracker(EventWriter):
    """Hands on the figures of each line of metrics.jsonl. A service that fails in the middle of a run is left alone
    from then on, with a warning: the run's own files have everything.

    Args:
        run: the run's folder, after which the run is called there.
        settings: config key → value.
        known: the name of the run that is to be gone on with there; None: a new one.
        logged: the last step whose figures are there already.

    Attributes:
        known: the run's name there.
    """

    service: str

    def __init__(self, run: Path, settings: Mapping[str, Any], known: str | None, logged: int):
        self._written, self._works = logged, True
        try:
            self.known = self._begin(_package(self.service), Path(run), settings, known)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"LOGGERS {self.service}: it cannot begin a run ({type(error).__name__}: {error}). Put right what it "
                f"says, or take {self.service} out of LOGGERS"
            ) from error

    def write(self) -> None:
        latest = get_event_storage().latest()
        steps = sorted({step for _, step in latest.values() if step > self._written})
        for step in steps:
            self._guarded(self._log, {name: value for name, (value, at) in latest.items() if at == step}, step)
            self._written = step

    def close(self) -> None:
        self._guarded(self._end, sys.exc_info()[0] is not None)
        self._works = False

    def _guarded(self, act, *args) -> None:
        if not self._works:
            return
        try:
            act(*args)
        except Exception as error:
            self._works = False
            logger.warning("%s fails (%s: %s); it gets no more figures", self.service, type(error).__name__, error)

    @abstractmethod
    def _begin(self, package: ModuleType, run: Path, settings: Mapping[str, Any], known: str | None) -> str: ...

    @abstractmethod
    def _log(self, figures: Mapping[str, float], step: int) -> None: ...

    @abstractmethod
    def _end(self, failed: bool) -> None: ...


class WandbTracker(Tracker):
    """Weights & Biases."""

    service = "wandb"

    def _begin(self, package, run, settings, known):
        self._run = package.init(dir=str(run), name=run.resolve().name, config=dict(settings), id=known, resume="allow")
        return self._run.id

    def _log(self, figures, step):
        self._run.log(dict(figures), step=step)

    def _end(self, failed):
        self._run.finish(exit_code=int(failed))


class MlflowTracker(Tracker):
    """MLflow."""

    service = "mlflow"

    def _begin(self, package, run, settings, known):
        self._mlflow = package
        begun = package.start_run(run_id=known, run_name=None if known else run.resolve().name)
        rows = [(key, str(value)[:_LONGEST_VALUE]) for key, value in settings.items()]
        for first in range(0, 0 if known else len(rows), _PARAMETERS_AT_ONCE):  # those of a run cannot be changed
            package.log_params(dict(rows[first : first + _PARAMETERS_AT_ONCE]))
        return begun.info.run_id

    def _log(self, figures, step):
        self._mlflow.log_metrics(dict(figures), step=step)

    def _end(self, failed):
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


TRACKERS = {tracker.service: tracker for tracker in (WandbTracker, MlflowTracker)}


def check_loggers(names: Sequence[str]) -> None:
    """Raises UserError where LOGGERS names a service whose package is not installed."""
    for name in names:
        if name in TRACKERS:
            _package(name)


def begin_trackers(
    run: Path, staging: Path, names: Sequence[str], settings: Mapping[str, Any], start: int
) -> list[Tracker]:
    """The trackers among LOGGERS, in its order. A service that refuses does so before anything in the run's folder is
    replaced: nothing is written there but what the services themselves leave.

    Args:
        run, settings: as for ``Tracker``.
        staging: a folder from which ``KNOWN_FILE`` goes into the run's.
        start: after how many steps the run goes on, with the run there where there is one; 0 for a new one.

    Raises:
        UserError: a package is not installed, or its service does not answer.
    """
    run, wanted = Path(run), [name for name in names if name in TRACKERS]
    if not wanted:
        return []
    known, logged = {}, 0
    if start:
        file, metrics = run / KNOWN_FILE, run / METRICS_FILE
        known = dict(read_json(file, "names of the run in LOGGERS")) if file.exists() else {}
        rows = read_metrics(metrics) if metrics.exists() else []
        logged = rows[-1]["iteration"] if rows else 0
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    trackers: list[Tracker] = []
    try:
        run.mkdir(parents=True, exist_ok=True)
        with ending_if_refused(trackers):
            for name in wanted:
                trackers.append(TRACKERS[name](run, settings, known.get(name), logged))
            write_json(staging / KNOWN_FILE, known | {tracker.service: tracker.known for tracker in trackers})
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
    return trackers


@contextmanager
def ending_if_refused(trackers: Sequence[Tracker]) -> Iterator[None]:
    """Ends the runs there, as failed, where the block is not gone through."""
    try:
        yield
    except BaseException:
        for tracker in trackers:
            tracker.close()
        raise


_NEEDED = {"wandb": "init", "mlflow": "start_run"}  # a folder of the service's name, beside the command, has neither


def _package(name: str) -> ModuleType:
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        package, why = None, f" ({error})" if error.name != name else ""
    else:
        why = ""
    if not hasattr(package, _NEEDED[name]):
        raise UserError(
            f"LOGGERS {name}: the package {name} is not installed{why}. Install it: pip install {name}; or take it out "
            "of LOGGERS"
        )
    return package
