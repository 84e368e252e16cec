"""A trained model that is to be made smaller, whatever its task."""

from __future__ import annotations

import copy
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from engine.device import device_of
from engine.errors import UserError
from engine.report.cost import count_multiply_adds
from engine.run.experiment import description
from engine.run.statements import understand
from engine.slim.config import config_of
from engine.task import TaskInfo
from engine.timing import medians, ratio, take_turns
from engine.train.checkpoint import load_checkpoint, save_checkpoint
from se_backbones import Backbone, find_network
from se_backbones.backbone import sites_of
from se_backbones.files import write_atomically

# What a checkpoint has for the training that it is to be gone on with, and of the weights that were.
_OF_THE_TRAINING = ("format", "model", "ema", "optimizer", "scheduler", "scaler", "seconds", "hardware")
HISTORY = "slim"  # a checkpoint's entry for what was done to its network


@dataclass(frozen=True)
class Score:
    """How good a model is.

    Attributes:
        name: of the figure, the task's main one.
        value: in percent; higher is better.
        standard_error: of the value, in points: how far it would stray on other images of the kind.
        figures: all of the evaluation's figures of that group.
    """

    name: str
    value: float
    standard_error: float
    figures: dict

    def as_dict(self) -> dict:
        return asdict(self)


class Subject(ABC):
    """A trained run of some task, to be changed in place and written down. A task makes one of a checkpoint.

    Args:
        model: the task's, in eval mode, with the weights that count (the averaged ones where there are any).
        cfg: of the model as it was loaded, with the device in it.
        stated: the run's config with what was changed on the command line, as it is to be written.
        checkpoint: the content of the file; weights: the file.
        info: the task.

    Attributes:
        model, cfg, stated, weights, info: as above. All of the model's parameters have gradients, also those that
            the run did not train. ``model`` may be set to a changed copy.
        whole: the model as it was.
        checkpoint: the content but for weights and the state of a training.
    """

    def __init__(
        self, model: nn.Module, cfg: CfgNode, stated: CfgNode, checkpoint: dict, weights: Path, info: TaskInfo
    ):
        try:
            find_network(model)
        except ValueError as error:
            raise UserError(f"{weights}: {error}") from None
        self.model, self.cfg, self.stated = model.requires_grad_(True).eval(), cfg, stated
        self.weights, self.info = Path(weights), info
        self.checkpoint = {key: value for key, value in checkpoint.items() if key not in _OF_THE_TRAINING}
        self.whole = copy.deepcopy(self.model)

    @property
    def network(self) -> Backbone:
        """The network in the model, the one to be changed."""
        return find_network(self.model)

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @abstractmethod
    def images(self, count: int) -> list[Tensor]:
        """So many images of the training split, spread over it, at the size of an evaluation: batches
        (n, 3, H, W), normalised as the network takes them, on its device. Fewer where the split has no more.

        Raises:
            UserError: the split is not there, or none of them can be read.
        """

    @abstractmethod
    def losses(self, count: int) -> Iterator[Callable[[], Tensor]]:
        """Calls that each give the training's loss on one fixed batch, a scalar with gradients; of so many images, as
        ``images`` takes them: not augmented, not mixed. Normalisation uses the statistics that it has, nothing is
        dropped out, and the model is in eval mode again behind the call. Called again with the same weights, one
        gives the same number.

        Raises:
            UserError: as ``images``; images without labels.
        """

    @abstractmethod
    def evaluate(self) -> Score:
        """The model's main figure on the validation split, in float32, not fused."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint of the task holds of the model."""
        return self.model.state_dict()

    @abstractmethod
    def inference(self, model: nn.Module) -> Callable[[], object]:
        """A call that runs a model of the task, made ready for inference, on one image."""

    @abstractmethod
    def train(self, config: str, words: Sequence[str]) -> None:
        """The task's ordinary training, gone on with where it has begun.

        Args:
            config: a file; words: KEY VALUE pairs on it.
        """

    def write(self, path: Path, facts: dict) -> Path:
        """An ordinary checkpoint of the model as it is, and beside it its config, NAME.yaml, which can be trained or
        evaluated as that of any run.

        Args:
            facts: what was done, plain values; the checkpoint holds them behind those of earlier changes.

        Raises:
            UserError: the path is the run's own weights.
            OSError: the place cannot be written to.
        """
        path = Path(path)
        self.check_output(path)
        cfg = config_of(self.stated, self.network.spec, path)
        content = {
            **self.checkpoint,
            **description(self.info, cfg, self.checkpoint["classes"]),
            HISTORY: [*self.checkpoint.get(HISTORY, ()), facts],
            "iteration": self.checkpoint.get("iteration", 0),
            "model": self.tensors(),
        }
        write_atomically(path.with_suffix(".yaml"), cfg.dump())
        return save_checkpoint(path, content)

    @torch.no_grad()
    def take(self, path: Path) -> None:
        """Puts the weights of a run of the subject's own network, as it is now, into it."""
        tensors = understand(load_checkpoint(path), path).state_dict
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def check_output(self, path: Path) -> None:
        """Raises UserError where a file cannot be the result's."""
        if path.resolve() == self.weights.resolve():
            raise UserError(f"{path} holds the weights that are made smaller: name another file, --output FILE")
        if path.suffix != ".pth":
            raise UserError(f"{path}: a checkpoint's name ends with .pth")

    def fine_tune(self, weights: Path, words: Sequence[str], output: Path) -> Path:
        """Trains written weights on, by the ordinary trainer with their own config; goes on where it was cut off.

        Args:
            weights: what ``write`` gave.
            words: KEY VALUE pairs, such as SOLVER.BASE_LR.
            output: the run's folder.

        Returns:
            the final checkpoint.

        Raises:
            UserError: as every training.
        """
        config = load_checkpoint(weights)["config"]
        here = ["MODEL.DEVICE", str(self.device), "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(output)]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            file.write_text(config, encoding="utf-8")
            self.train(str(file), [*words, *here])
        return Path(output) / "model_final.pth"


def costs(subject: Subject, rounds: int = 15) -> dict:
    """What the model costs and what it did.

    Returns:
        {"image_size": [H, W], "before": …, "after": …, "times_as_fast": {"median", "quartiles"}}; each of the two has
        "parameters" of the whole model, "se_parameters" of its gates, "multiply_adds" of its network for one image,
        in convolutions and linear layers, and "milliseconds" that one image takes in the whole model, ready for
        inference, the median of so many turns.
    """
    size = tuple(subject.images(1)[0].shape[2:])
    models = {"before": subject.whole, "after": subject.model}
    with torch.inference_mode():
        calls = {name: subject.inference(model) for name, model in models.items()}
        times = take_turns(calls, rounds, subject.device)
    milliseconds = {name: round(1000 * seconds, 4) for name, seconds in medians(times).items()}
    found = {name: {**counts(model, size), "milliseconds": milliseconds[name]} for name, model in models.items()}
    return {"image_size": list(size), **found, "times_as_fast": ratio(times, "before", "after")}


def counts(model: nn.Module, size: tuple[int, int]) -> dict[str, int]:
    """``costs`` of one model but for the time. ``size``: height and width of an image in pixels."""
    gates = [site.gate for site in sites_of(model) if site.gate is not None]
    return {
        "parameters": _numbers(model),
        "se_parameters": sum(map(_numbers, gates)),
        "multiply_adds": count_multiply_adds(find_network(model), size),
    }


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
