"""A run before it has begun: its folder is as it was until nothing can be refused any more."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

from fvcore.common.config import CfgNode

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.logs.run_log import log_to
from engine.run.folder import before_the_run, of_the_run, results, unfinished, write_config
from engine.task import TaskInfo
from engine.train.launch import once
from se_backbones.files import write_atomically

from detectron2.utils import comm


class Start:
    """What a run, or an evaluation, writes before it begins, kept aside; all processes make one, the first one writes.

    Args:
        folder: the run's, or an evaluation's inside of a run's.
        checkpoint: the content of the checkpoint to go on from; None where the folder's run is begun anew.
        evaluates: nothing is trained; an earlier evaluation's files stay until this one has its own.

    Attributes:
        folder, checkpoint: as above; nothing is written into the folder until ``begin``.
        began: ``time.monotonic()`` of now, from which a time limit counts.
        staging: a folder for what is written before; ``begin`` moves it into ``folder``.
        listings: the folder for the listing of what a start was refused for: the run's own where there is no run in it
            yet, else ``staging``, which then stays where it is.
    """

    def __init__(self, folder: Path, task: TaskInfo, checkpoint: dict | None = None, evaluates: bool = False):
        self.began = time.monotonic()
        self.folder, self.checkpoint, self._task, self._evaluates = Path(folder), checkpoint, task, evaluates
        self.staging = Path(once(lambda: tempfile.mkdtemp(prefix="se-backbones-")))
        holds_run = results(self.folder, task) or (evaluates and results(self.folder.parent, task))
        self.listings = self.staging if holds_run else self.folder
        owner = os.getpid() if comm.is_main_process() else None
        self._discard = weakref.finalize(self, _discard, self.staging, tuple(task.listings), owner)

    def begin(self, cfg: CfgNode) -> None:
        """Makes the folder the run's: removes what the run replaces, and writes what was kept aside, the config and
        the log. To be called by all processes when nothing can be refused any more.

        Raises:
            UserError: the folder cannot be written to.
        """
        once(lambda: self._fill(cfg))
        self._discard()
        log_to(self.folder)

    def _fill(self, cfg: CfgNode) -> None:
        folder, anew = self.folder, self.checkpoint is None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            old = unfinished(folder)
            old += before_the_run(folder, self._task) if anew else []
            old += of_the_run(folder, self._task) if anew and not self._evaluates else []
            write_config(folder, cfg)
            written = {"config.yaml"}
            for path in self.staging.iterdir():
                write_atomically(folder / path.name, path.read_bytes())
                written.add(path.name)
            for path in old:  # last: until here, the old run is whole
                if path.name not in written:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            raise UserError(f"OUTPUT_DIR {folder} cannot be written to: {error.strerror or error}") from error


def _discard(staging: Path, listings: tuple[str, ...], owner: int | None) -> None:
    """Removes the folder, unless it holds what a refused start has told of: a listing."""
    if os.getpid() == owner and not any(next(staging.glob(pattern), None) for pattern in listings):
        shutil.rmtree(staging, ignore_errors=True)
