"""What modules keep of a training as plain numbers, which no ``state_dict`` has."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class PlainNumbers:
    """The ints and floats among the attributes of a model's modules that are others than when the model was built.

    Detectron2's RetinaNet divides its losses by a moving average, ``loss_normalizer``, that is such an attribute (and
    the only one among the meta-architectures that are trained here): a run that goes on without it is another run.

    Args:
        model: as it is built, before a step is made or a checkpoint's numbers are taken over.
    """

    def __init__(self, model: nn.Module):
        self._modules = dict(model.named_modules())
        self._built = self._now()

    def state_dict(self) -> dict[str, int | float]:
        """``{"path of the module.attribute": number}``, of those that have changed; mostly none."""
        return {name: value for name, value in self._now().items() if value != self._built.get(name)}

    def load_state_dict(self, state: Mapping[str, int | float]) -> None:
        """Takes ``state_dict``'s over. Raises ValueError where a module is not there, or what it gets is no number."""
        for name, value in state.items():
            path, _, attribute = name.rpartition(".")
            if path not in self._modules or not _is_number(value):
                raise ValueError(f"there is no place for the number {name} = {value!r}")
            setattr(self._modules[path], attribute, value)

    def _now(self) -> dict[str, int | float]:
        return {
            f"{path}.{name}" if path else name: value
            for path, module in self._modules.items()
            for name, value in vars(module).items()
            if _is_number(value)
        }


def _is_number(value: object) -> bool:
    return type(value) in (int, float)  # a bool is none: ``training`` is the loop's
