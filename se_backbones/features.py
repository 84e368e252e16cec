"""``features_only``: a network's maps as a list, described as timm's ``features_only`` networks describe theirs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from se_backbones.backbone import Backbone
from se_backbones.create import create_backbone
from se_backbones.registry import family_of, find_spec, skeleton


class FeatureListInfo:
    """What a list's maps are, asked for as timm's ``FeatureInfo`` is.

    Attributes:
        info: for every stage of the network, first to last, ``num_chs``, ``reduction`` (the map's stride), ``module``
            (the path in the network of the stage's last module with weights), ``stage`` (its name) and ``index``.
        out_indices: the stages whose maps the list has, in its order.
    """

    def __init__(self, info: Sequence[dict], out_indices: Sequence[int]):
        self.info = list(info)
        self.out_indices = tuple(out_indices)

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> dict | list[dict]:
        """The entries of the list's maps, or those of the stages whose numbers ``idx`` gives, in the list or not: one
        entry for one number. ``keys``: the values that are wanted, all by default."""
        if isinstance(idx, int):
            entry = self.info[idx]
            return entry if keys is None else {key: entry[key] for key in keys}
        return [self.get_dicts(keys, index) for index in (self.out_indices if idx is None else idx)]

    def get(self, key: str, idx: int | Sequence[int] | None = None):
        """One value of each entry, see ``get_dicts``."""
        found = self.get_dicts((key,), idx)
        return found[key] if isinstance(idx, int) else [entry[key] for entry in found]

    def channels(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """Channels of the maps."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """By how much the maps are smaller than the image."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> str | list[str]:
        """Paths of the modules at the stages' ends."""
        return self.get("module", idx)

    def __getitem__(self, index: int) -> dict:
        return self.info[index]

    def __len__(self) -> int:
        return len(self.info)


class FeatureList(nn.Module):
    """A network whose maps come as a list. Made by ``features_only``.

    Attributes:
        network: the network itself.
        feature_info: what the maps are.
    """

    def __init__(self, network: Backbone, names: Sequence[str]):
        super().__init__()
        self.network = network
        self._names = tuple(names)
        whole = skeleton(network.spec)
        maps = {**whole.feature_info, **network.feature_info}  # a dilated stage has another stride
        info = [
            {"num_chs": channels, "reduction": stride, "module": whole.stage_paths[name][-1], "stage": name, "index": i}
            for i, (name, (channels, stride)) in enumerate(maps.items())
        ]
        self.feature_info = FeatureListInfo(info, [whole.stages.index(name) for name in names])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) → the maps of ``feature_info.out_indices``, (N, C, H/s, W/s) each; see
        ``Backbone.forward_features``."""
        maps = self.network.forward_features(x)
        return [maps[name] for name in self._names]


def features_only(network: str | Backbone, out_indices: int | Sequence[int] | None = None, **settings) -> FeatureList:
    """A network whose maps come as a list, for code that is written for timm's ``features_only=True``.

    Args:
        network: a name of ``list_backbones()``, or a network, which is used as it is.
        out_indices: numbers of the stages whose maps are wanted, in the order in which they come: from 0, or from -1
            backwards; one integer: so many of the last; None: all of them, or all that a given network hands out.
            ResNets have timm's numbers, 1 to 4 for the strides 4 to 32; their number 0 is what the first unit takes,
            behind the pooling, of stride 4 where timm's has 2.
        settings: of ``create_backbone``, where a name is given: ``pretrained=True``, ``last_dilation=2`` (timm's
            ``output_stride=16``). There is no classifier, and stages behind the last one that is wanted are not built.

    Raises:
        ValueError: no such stage, or one that the given network does not hand out; settings beside a network; or as for
            ``create_backbone``.
    """
    if own := sorted({"num_classes", "out_features"} & settings.keys()):
        raise ValueError(f"{', '.join(own)}: there is no classifier here, and out_indices says which maps are wanted")
    if isinstance(network, Backbone) and settings:
        raise ValueError(f"{', '.join(settings)}: settings are for a network by name; this one is built already")
    stages = family_of(network.spec if isinstance(network, Backbone) else find_spec(network)).network.stages
    if isinstance(network, Backbone):
        names = network.out_features if out_indices is None else _named(out_indices, stages)
        if absent := [name for name in names if name not in network.out_features]:
            raise ValueError(
                f"out_indices: the network hands out {', '.join(network.out_features)}, and not {', '.join(absent)}"
            )
    else:
        names = stages if out_indices is None else _named(out_indices, stages)
        network = create_backbone(network, 0, out_features=names, **settings)
    return FeatureList(network, names)


def _named(out_indices: int | Sequence[int], stages: Sequence[str]) -> list[str]:
    """The stages of numbers as timm takes them."""
    numbers = range(-out_indices, 0) if isinstance(out_indices, int) else out_indices
    try:
        names = [stages[number] for number in numbers]
    except (IndexError, TypeError):
        names = []
    if not names or len(set(names)) < len(names):
        listed = ", ".join(f"{number} {name}" for number, name in enumerate(stages))
        raise ValueError(f"out_indices must be different numbers of the stages {listed}; got {out_indices!r}")
    return names
