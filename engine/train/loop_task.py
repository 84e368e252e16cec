"""What the training loop is told of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Task:
    """What the loop needs to know of a task.

    Attributes:
        batches: yields this process's share of each step's batch, from the first step to make on.
        name_images: batch → the images in it, for error messages.
        advice: what besides the engine's own settings may help where a loss is not finite, for that error message.
        split: (batch, n) → n parts of about equal size, for accumulation.
        evaluate: model in eval mode → figures as ``{group: {figure: value}}`` (empty in all processes but the first).
        stated: figures → what weights with these are to state besides, the thresholds of an evaluation's predictions
            say. Called behind that evaluation, by the first process alone, for the weights that are kept.
        describe: what else a checkpoint holds: task, classes, preprocessing, config, versions.
        losses: (model, batch) → ``{loss name: scalar}``; the model is the one to call, wrapped for several processes.
        main_figure: which figure a schedule that waits for plateaus is told, as ``flatten`` names it; higher is better.
    """

    batches: Iterator[Any]
    name_images: Callable[[Any], str]
    advice: str
    split: Callable[[Any, int], list]
    evaluate: Callable[[nn.Module], dict] | None
    describe: dict
    stated: Callable[[dict], dict] = lambda figures: {}
    losses: Callable[[nn.Module, Any], dict[str, Tensor]] = lambda model, batch: model(batch)
    main_figure: str = ""
