"""What weights say of themselves besides their tensors, held against the config under which they are used.

A network with another gate, other colours or other anchors takes the same tensors and computes something else. So does
a head whose classes are in another order.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from fvcore.common.config import CfgNode
from torch import nn

from engine.errors import UserError
from engine.run.folder import class_difference
from engine.task import TaskInfo
from se_backbones.weights import LoadReport, WeightsError, WeightsFile, load_weights, read_state_dict
from se_backbones.weights.allow import ARCHITECTURE, PREPROCESSING
from se_backbones.weights.weights_file import CHECKPOINT_FORMAT

logger = logging.getLogger(__name__)

CLASSES = "classes"  # beside the loader's two words, a third in MODEL.ALLOW
WORDS = (PREPROCESSING, ARCHITECTURE, CLASSES)
# They compute the same but in training, from the same tensors.
_BATCH_NORMS = ("BN", "SyncBN", "FrozenBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")


def preprocessing(cfg: CfgNode) -> dict:
    """What the network's input is: channel order, the pixels' range, mean and standard deviation in that range."""
    return {
        "channel_order": cfg.INPUT.FORMAT,
        "scale": 255,
        "mean": list(cfg.MODEL.PIXEL_MEAN),
        "std": list(cfg.MODEL.PIXEL_STD),
    }


def unmarked_settings(config: Mapping, task: TaskInfo) -> dict:
    """The settings of the task's own that leave no mark on a tensor: {key: plain value}.

    Args:
        config: a config, or a part of one in a dictionary.
    """
    return {
        key: _plain(value)
        for key, value in leaves(config)
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in task.unmarked)
    }


def understand(checkpoint: dict, source: str | Path) -> WeightsFile:
    """A checkpoint of ours as the loader takes it: the averaged weights where there are any, and what it says.

    Args:
        checkpoint: as ``load_checkpoint`` gives it; source: its file, for messages.

    Raises:
        UserError: it holds no weights of a network that is known.
    """
    try:
        weights = read_state_dict(checkpoint)
    except WeightsError as error:
        raise UserError(f"{source}: {error}") from error
    weights.source = str(source)
    return weights


def is_ours(weights: WeightsFile) -> bool:
    """Whether they are out of a checkpoint of a run."""
    return weights.metadata.get("format") == CHECKPOINT_FORMAT


def steps_of(weights: WeightsFile) -> int | None:
    """After how many steps of a run they were saved; None where they are out of no run's checkpoint."""
    return weights.metadata["iteration"] if is_ours(weights) else None


def load_stated(
    model: nn.Module, weights: WeightsFile, cfg: CfgNode, task: TaskInfo, allow: Sequence[str] = ()
) -> LoadReport:
    """Loads weights that are to be used as what they were trained as: to evaluate, to predict with, to go on with.

    Args:
        allow: as for ``load_weights``.

    Raises:
        UserError: names do not fit, or what the weights state differs from the config: the network (stride, pooling,
            SE), the preprocessing, or one of ``TaskInfo.unmarked``. The model is then untouched.
    """
    differences = setting_differences(weights, cfg, task)
    if differences and ARCHITECTURE not in allow:
        listed = "\n- ".join(differences)
        raise UserError(
            f"{weights.source} does not fit the config:\n- {listed}\nUse the config of the run that trained them. To "
            "evaluate them so nevertheless: MODEL.WEIGHTS FILE, with 'architecture' in MODEL.ALLOW"
        )
    try:
        report = load_weights(model, weights, allow=allow, preprocessing=preprocessing(cfg))
    except WeightsError as error:
        text = str(error).removeprefix(f"{weights.source}: ")
        raise UserError(f"{weights.source} does not fit the config: {text}") from error
    report.warnings += differences
    return report


def setting_differences(weights: WeightsFile, cfg: CfgNode, task: TaskInfo) -> list[str]:
    """A sentence for each of the task's unmarked settings that the weights were trained with otherwise; none where
    they do not say."""
    stated, ours = _stated_settings(weights.metadata, task), unmarked_settings(cfg, task)
    return [
        f"the weights were trained with {key} {stated[key]}, and the config has {ours[key]}"
        for key in sorted(stated.keys() & ours.keys())
        if not _same(stated[key], ours[key])
    ]


def check_classes(
    weights: WeightsFile | LoadReport, classes: Sequence[str], where: str, allow: Sequence[str] | None = None
) -> None:
    """Raises UserError where weights that know their classes are for others than the data's, or for the same in another
    order.

    Args:
        where: the data, for the message.
        allow: MODEL.ALLOW, in which the word ``classes`` turns the error into a warning; None: it does not count.
    """
    if weights.classes is None or not (difference := class_difference(weights.classes, classes)):
        return
    text = f"the classes of the weights in {weights.source} (first) and of {where} (second) differ:\n  {difference}"
    if CLASSES in (allow or ()):
        logger.warning("%s", text)
        return
    advice = "\nTake data with the classes that they were trained on, in the same order"
    if allow is not None:
        advice += ". If they are the same under other names, put 'classes' into MODEL.ALLOW"
    raise UserError(text + advice)


def _stated_settings(said: Mapping, task: TaskInfo) -> dict:
    """From the entry of its own, or from the config that a run's checkpoint holds."""
    if isinstance(said.get("unmarked"), dict):
        return said["unmarked"]
    if said.get("task") != task.name or not isinstance(said.get("config"), str):
        return {}
    try:
        config = yaml.safe_load(said["config"])
    except yaml.YAMLError:
        return {}
    return unmarked_settings(config, task) if isinstance(config, dict) else {}


def leaves(config: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of a config."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value):
    """Tuples as lists, which is what they are in a file."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _same(stated, ours) -> bool:
    return stated == ours or (stated in _BATCH_NORMS and ours in _BATCH_NORMS)
