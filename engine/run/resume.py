"""Whether a run may go on from its checkpoint with the config and the data that there are now, and what that means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.run.folder import announce_changes
from engine.run.start import Start
from engine.run.statements import check_classes, load_stated, understand
from engine.task import TaskInfo

from detectron2.utils import comm

logger = logging.getLogger(__name__)

IMAGES = "training_images"  # a checkpoint's entry for what ``engine.train.fingerprint`` gives


def check_resume(
    start: Start, model: nn.Module, task: TaskInfo, then: CfgNode, now: CfgNode, steps: int, about: Mapping, data: str
) -> None:
    """Holds the checkpoint that a run is to go on from against config and data. Keys that differ are logged.

    A position is a number of steps, and counts images seen by the size of a batch. With batches of another size it
    would mean another number of images, so that is refused. The number of processes and SOLVER.ACCUMULATE only share a
    batch out: the images are the same in the same order, and the log says what of the arithmetic is not. Where the
    images are others, the run goes on after as many images as it has seen, and a warning says so.

    Args:
        model: gets the checkpoint's weights, the averaged ones where there are any.
        then, now: the config that the run began with, and the present one.
        steps: where the training ends.
        about: what the run's checkpoints say of themselves now: ``classes``, and ``training_images`` as of
            ``fingerprint``.
        data: the training set, for messages.

    Raises:
        UserError: the checkpoint is of another network, preprocessing, task or classes; the batches have another size,
            or cannot be shared by the processes; or more steps were made than there are to make.
    """
    checkpoint, run = start.checkpoint, start.folder
    announce_changes(then, now)
    if checkpoint["task"] != task.name:
        began = checkpoint["task"]
        raise UserError(f"the run in {run} is one of {began}, not {task.name}: resume it with the tool that began it")
    weights = understand(checkpoint, f"the checkpoint in {run}")
    check_classes(weights, about["classes"], data)
    _check_position(checkpoint, run, then.SOLVER.IMS_PER_BATCH, now.SOLVER.IMS_PER_BATCH, steps)
    _tell_of_other_processes(checkpoint, run, now.SOLVER.IMS_PER_BATCH)
    _warn_of_other_images(checkpoint, about[IMAGES], now.SOLVER.IMS_PER_BATCH, steps, data)
    load_stated(model, weights, now, task)


def _check_position(checkpoint: Mapping, run: Path, then: int, now: int, steps: int) -> None:
    done = checkpoint["iteration"]
    if then != now:
        raise UserError(
            f"the run in {run} has made {done} steps of {then} images each, {done * then:,} images. With "
            f"SOLVER.IMS_PER_BATCH {now} they would count as {done * now:,}, and the schedule would be another one. Go "
            f"on with SOLVER.IMS_PER_BATCH {then}: SOLVER.ACCUMULATE computes a batch in parts where memory is short, "
            f"and any number of processes that divides it shares it. Or begin another run from its weights: OUTPUT_DIR "
            f"FOLDER MODEL.WEIGHTS {run}/checkpoint_{done:07d}.pth"
        )
    if done > steps:
        raise UserError(
            f"the run in {run} has made {done} steps, and the config and the data ask for {steps}: nothing is left to "
            "train. A larger SOLVER.MAX_ITER (or SOLVER.EPOCHS where there is one) goes on; --eval-only evaluates it"
        )


def _tell_of_other_processes(checkpoint: Mapping, run: Path, batch: int) -> None:
    now = comm.get_world_size()
    then = checkpoint.get("processes", now)  # not in those of an earlier version
    if batch % now:
        shares = ", ".join(str(count) for count in range(1, batch + 1) if batch % count == 0)
        raise UserError(
            f"the run in {run} has batches of {batch} images, which {now} processes cannot share evenly, and the size "
            f"of a batch cannot change within a run. Go on with as many processes as divide it: {shares}"
        )
    if then != now:
        logger.info(
            "processes: %d before, %d now. The images are the same in the same order, %d a process now and %d before. "
            "What is summed over them is rounded otherwise; BatchNorm, unless it is SyncBN, normalises each process's "
            "images by themselves; and what is drawn within a step (dropout, mixed images, sampled proposals) is drawn "
            "anew. So the figures are those of an equal run, and not the same to the bit",
            then, now, batch // now, batch // then,
        )  # fmt: skip


def _warn_of_other_images(checkpoint: Mapping, now: Mapping, batch: int, steps: int, data: str) -> None:
    then, done = checkpoint.get(IMAGES), checkpoint["iteration"]
    if not isinstance(then, Mapping) or dict(then) == dict(now):
        return
    seen = done * batch
    counts = f"{then['count']:,} then, {now['count']:,} now"
    if then["count"] == now["count"]:
        counts = f"{now['count']:,} as before, with other names or labels"
    logger.warning(
        "the training images of %s are not those that this run has seen so far (%s). The position counts images: %s, "
        "which were %.3g epochs of the images then and are %.3g of the present ones, whose order is another one. The "
        "run goes on from there, to step %d. To train on the former images alone, put them back; for an epoch count of "
        "the present ones alone, begin another run with MODEL.WEIGHTS of this one",
        data, counts, f"{seen:,}", seen / then["count"], seen / max(now["count"], 1), steps,
    )  # fmt: skip
