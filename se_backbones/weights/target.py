"""The model that takes weights: its tensors by name, and where in it the network lies."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from se_backbones.backbone import Backbone, detached_stages
from se_backbones.errors import WeightsError
from se_backbones.registry import Family, Spec, family_of


class Target:
    """A model without its wrappers.

    Attributes:
        model: the model itself.
        tensors: name -> parameter or persistent buffer, the model's own memory; with a ``prefix`` given,
            those under it alone: the rest of the model is then no target.
        prefix: where the network lies: ``backbone.bottom_up.net.``, ``backbone.net.``, or empty.
        network: that network, or the model where it has none.
        spec: its row of the table with the SE settings in force, or None.
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
        self.spec: Spec | None = self.network.spec if isinstance(self.network, Backbone) else None
        # Where a stage lies that the model keeps outside of the network (a C4 detector's) -> its path in the network.
        self._detached = {f"{path}.": f"{stage.network_path}." for path, stage in detached_stages(self.model)}

    def _find(self) -> str:
        found = [
            f"{name}." if name else "" for name, module in self.model.named_modules() if isinstance(module, Backbone)
        ]
        if len(found) > 1:
            raise WeightsError(f"the model holds several networks ({', '.join(found)}): name one with prefix=")
        return found[0] if found else ""

    @property
    def family(self) -> Family | None:
        """The network's family, or None where the model has no network of ours."""
        return family_of(self.spec) if self.spec else None

    @property
    def is_detector(self) -> bool:
        """Whether there is more in the model than the network: feature pyramid, heads."""
        return bool(self.prefix)

    def in_backbone(self, name: str) -> str:
        """A name of the model as the network itself has it."""
        for place, path in self._detached.items():
            if name.startswith(place):
                return path + name.removeprefix(place)
        return name.removeprefix(self.prefix)

    def place_of(self, name: str) -> str:
        """Where the model keeps the network's tensor ``name``."""
        for place, path in self._detached.items():
            if name.startswith(path) and f"{self.prefix}{name}" not in self.tensors:
                moved = place + name.removeprefix(path)
                if moved in self.tensors:
                    return moved
        return self.prefix + name

    def backbone_tensors(self) -> dict[str, Tensor]:
        """The network's tensors under its own names."""
        places = (self.prefix, *self._detached) if self.prefix else ("",)
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
