"""The model that takes weights: its tensors by name, and where in it the residual network lies."""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from se_backbones.weights.errors import WeightsError

# In a C4 detector the last stage belongs to the ROI heads.
RES5_HEAD = "roi_heads.res5."


class Target:
    """A model without its wrappers.

    Attributes:
        model: the model itself.
        tensors: name -> parameter or persistent buffer, the model's own memory; with a ``prefix`` given,
            those under it alone: the rest of the model is then no target.
        prefix: where the residual network lies: ``backbone.bottom_up.net.``, ``backbone.net.``, or empty.
        network: that network, or None where the model has none.
        config: its row of the table with the SE settings in force, or None.
    """

    def __init__(self, model: nn.Module, prefix: str = ""):
        self.model = _unwrapped(model)
        self.tensors: dict[str, Tensor] = dict(self.model.state_dict())
        self.prefix = prefix if prefix else self._find()
        if prefix:
            self.tensors = {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}
            if not self.tensors:
                raise WeightsError(f"the model has nothing under {prefix!r}")
        self.network = self.model.get_submodule(self.prefix.rstrip(".")) if self.prefix else self.model
        self.config = getattr(self.network, "config", None)
        if not hasattr(self.config, "stride_in_1x1"):
            self.config = None

    def _find(self) -> str:
        found = [
            name.removesuffix("layer1.0.conv1.weight")
            for name in self.tensors
            if re.search(r"(^|\.)layer1\.0\.conv1\.weight$", name)
        ]
        if len(found) > 1:
            raise WeightsError(f"the model holds several networks ({', '.join(found)}): name one with prefix=")
        return found[0] if found else ""

    @property
    def is_detector(self) -> bool:
        """Whether there is more in the model than the network: feature pyramid, heads."""
        return bool(self.prefix)

    def in_backbone(self, name: str) -> str:
        """A name of the model as the network itself has it."""
        if name.startswith(RES5_HEAD):
            return f"layer4.{name.removeprefix(RES5_HEAD)}"
        return name.removeprefix(self.prefix)

    def place_of(self, name: str) -> str:
        """Where the model keeps the network's tensor ``name``."""
        if name.startswith("layer4.") and f"{self.prefix}{name}" not in self.tensors:
            moved = RES5_HEAD + name.removeprefix("layer4.")
            if moved in self.tensors:
                return moved
        return self.prefix + name

    def backbone_tensors(self) -> dict[str, Tensor]:
        """The network's tensors under its own names."""
        places = (self.prefix, RES5_HEAD) if self.prefix else ("",)
        return {self.in_backbone(name): tensor for name, tensor in self.tensors.items() if name.startswith(places)}

    def owner(self, name: str) -> nn.Module:
        """The module that holds a tensor."""
        return self.model.get_submodule(name.rpartition(".")[0])

    def has_live_statistics(self, name: str) -> bool:
        """Whether the tensor belongs to a BatchNorm that updates its statistics in training."""
        return isinstance(self.owner(name), _BatchNorm)


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod
        else:
            return model
