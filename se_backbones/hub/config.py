"""config.json: what rebuilds a network, and what its inputs and outputs mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import nn

from se_backbones.backbone import Backbone
from se_backbones.create import create_backbone
from se_backbones.errors import WeightsError
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import find_spec, shapes_of, skeleton
from se_backbones.se import SEConfig
from se_backbones.weights.report import as_json, fold_names

FORMAT = "se-backbones-network/1"
_MOST_BYTES = 1 << 26  # of a config; a million class names fit
_KINDS = {
    "architecture": str,
    "num_classes": int,
    "out_features": list,
    "norm": str,
    "last_dilation": int,
    "dropout": float | int,
    "se": dict | None,
    "widths": list,
    "preprocessing": dict | None,
    "classes": list | None,
    "tensors_sha256": str,
}


@dataclass(frozen=True)
class NetworkConfig:
    """What config.json holds. The first eight are arguments of ``create_backbone``.

    Attributes:
        architecture: the name in ``list_backbones()``.
        num_classes, out_features, norm, last_dilation, dropout, se, widths: as for ``create_backbone``.
        preprocessing: how images come; None: not known.
        classes: the names of the classifier's outputs, in order; None: not known.
        tensors_sha256: the checksum in the weights that it belongs to.
    """

    architecture: str
    num_classes: int
    out_features: tuple[str, ...]
    norm: str
    last_dilation: int
    dropout: float
    se: SEConfig | None
    widths: tuple
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    tensors_sha256: str = ""

    @classmethod
    def of(
        cls, network: Backbone, preprocessing: Preprocessing | None = None, classes: Sequence[str] | None = None
    ) -> NetworkConfig:
        """The config of a network.

        Raises:
            WeightsError: ``create_backbone`` would not build it: its row is not registered, or its layers are others;
                or there are not as many classes as outputs, or they are one text.
        """
        spec = network.spec
        last = network.stages[-1]
        if isinstance(classes, str):
            raise WeightsError(f"classes must be a list of names; got the one text {classes!r}")
        config = cls(
            spec.name,
            outputs_of(network),
            network.out_features,
            "GN" if any(isinstance(module, nn.GroupNorm) for module in network.modules()) else "BN",
            skeleton(spec).feature_info[last].stride // network.feature_info[last].stride,
            spec.hyper.dropout,
            spec.se,
            spec.widths,
            preprocessing,
            None if classes is None else tuple(map(str, classes)),
        )
        config._check_classes(f"the network, {spec.name},")
        config._check_rebuilds(network)
        return config

    @property
    def settings(self) -> dict:
        """The keyword arguments of ``create_backbone``."""
        names = ("num_classes", "out_features", "norm", "last_dilation", "dropout", "se", "widths")
        return {name: getattr(self, name) for name in names}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that the network has, without memory for them.

        Raises:
            ValueError: a setting that ``create_backbone`` refuses, or a size that no tensor has.
        """
        try:
            with torch.device("meta"):
                return shapes_of(create_backbone(self.architecture, **self.settings).state_dict())
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"no network can be built of it ({str(error).splitlines()[0]})") from None

    def as_json(self) -> str:
        """The text of config.json."""
        return as_json({"format": FORMAT, "library_name": "se-backbones", **asdict(self)}, indent=2)

    @classmethod
    def read(cls, path: Path) -> NetworkConfig:
        """Reads config.json; what else stands in it is passed over.

        Raises:
            WeightsError: it is missing, damaged or another program's, or a value in it is none; the message names it.
        """
        values = read_json(path)
        if values.get("format") != FORMAT:
            raise WeightsError(
                f"{path}: is not of save_pretrained (its format is {values.get('format')!r}, and not {FORMAT!r}). "
                "Weights of others load with load_weights, or create_backbone(NAME, pretrained=FILE)"
            )
        for name, kind in _KINDS.items():
            if name not in values or not isinstance(values[name], kind) or isinstance(values[name], bool):
                found = repr(values[name])[:80] if name in values else "nothing"
                raise WeightsError(f"{path}: {name} must be {getattr(kind, '__name__', kind)}; found {found}")
        try:
            find_spec(values["architecture"])
            said = values["preprocessing"]
            config = cls(
                **{field.name: values[field.name] for field in fields(cls)}
                | {
                    "out_features": tuple(map(str, values["out_features"])),
                    "se": None if values["se"] is None else _se(values["se"]),
                    "widths": tuple(map(tuple, values["widths"])),
                    "preprocessing": None if said is None else Preprocessing.of(said),
                    "classes": None if values["classes"] is None else tuple(map(str, values["classes"])),
                }
            )
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{path}: {error}") from None
        config._check_classes(f"{path}: the network")
        return config

    def _check_classes(self, who: str) -> None:
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise WeightsError(f"{who} has {self.num_classes} outputs, and {len(self.classes)} classes are named")

    def _check_rebuilds(self, network: Backbone) -> None:
        """Another head, a layer that was replaced, a row that nobody registered: what no config can say."""
        try:
            if not find_spec(self.architecture).matches(network.spec.hyper):
                raise ValueError(f"the row {self.architecture} is of another network")
            wrong = differences(self.shapes(), shapes_of(network.state_dict()))
        except ValueError as error:
            raise WeightsError(f"create_backbone would not build this network: {error}") from None
        if wrong:
            raise WeightsError(
                f"create_backbone would not build this network: layers of {self.architecture} were changed in it, by "
                f"fusing say ({', '.join(wrong[:6])})"
            )


def outputs_of(network: Backbone) -> int:
    """Outputs of the classifier that a network has now, one that took the place of its first included; 0: none."""
    return network.head.out_features if isinstance(network.head, nn.Linear) else network.num_classes


def differences(one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of tensors whose shapes differ or that one of two networks lacks, alike ones in one line. A normalisation's
    counter of batches is none: a fixed one counts no batches."""
    wrong = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return fold_names(name for name in wrong if not name.endswith("num_batches_tracked"))


def read_json(path: Path) -> dict:
    """A file that holds a JSON object. Raises WeightsError where it does not, or cannot be read."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST_BYTES + 1)
        values = json.loads(text) if len(text) <= _MOST_BYTES else None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: is not JSON; fetch or save it again") from None
    if not isinstance(values, Mapping):
        raise WeightsError(f"{path}: holds no JSON object of a size that a config has")
    return dict(values)


def _se(values: Mapping) -> SEConfig:
    known = [field.name for field in fields(SEConfig)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"se has the setting {unknown[0]!r}, which this version does not know; it is of a later one")
    return SEConfig(**values)
