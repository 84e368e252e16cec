"""Which network weights are of, where names and shapes fit several: what is stated, what a file calls itself, what is
only usual."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from se_backbones.errors import WeightsError
from se_backbones.layout import LookAlike
from se_backbones.registry import Spec, family_of, find_spec
from se_backbones.weights.shapes import same_network
from se_backbones.weights.sources.named import HUB_FILES, SourceFile

if TYPE_CHECKING:
    from se_backbones.weights.weights_file import WeightsFile

# Under which names training scripts keep the network's, at the top or in their arguments.
_KEYS = frozenset("arch architecture backbone encoder model model_name model_type name net network variant".split())
_ASSIGNED = re.compile(
    r"\b(?:arch\w*|backbone|checkpoint|model\w*|pretrained|style|type)\s*[=:]\s*(['\"])(.{1,120}?)\1"
)
_DEEPEST = 4


def settings_of(name: str) -> dict[str, Any]:
    """A row's values of the settings that leave no mark on a tensor, as ``Facts.hyper`` has them."""
    row = find_spec(name)
    return {setting: getattr(row.hyper, setting) for setting in family_of(row).unmarked}


def names_itself(source: SourceFile, beside: Mapping) -> tuple[tuple[str, str], ...]:
    """(where, text): what a file may be called after its network. No text is believed; one that names a network which
    is known to be another is a reason to ask."""
    found = [("its release", source.network)] if source.network else [("its name", source.path.name)]
    if not source.network and source.path.name in HUB_FILES:  # a hub's file, whose folder has the name
        found += [("its folder's name", part) for part in source.path.absolute().parts[-4:-1]]
        found += [(f"config.json beside it ({key})", text) for key, text in _texts(_config_beside(source.path))]
    return (*found, *((f"its entry {key!r}", text) for key, text in _texts(beside)))


def _config_beside(path: Path) -> dict:
    try:
        with open(path.parent / "config.json", encoding="utf-8") as file:
            config = json.loads(file.read(1 << 20))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _texts(values: Mapping, depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _texts(value, depth + 1)
        elif isinstance(value, str) and len(value) > 200:  # a whole config, as open-mmlab's files have it
            for found in _ASSIGNED.finditer(value):
                yield str(key), found[2]
        elif isinstance(value, str) and key in _KEYS:
            yield str(key), value


def stated_as(weights: WeightsFile, network: str | None) -> WeightsFile:
    """The same weights, of a network that one who knows has named; as they are for None.

    Raises:
        WeightsError: no such network, or the tensors are another one's, or the file is one of ours and says that it
            is of another.
    """
    if network is None:
        return weights
    try:
        row = find_spec(network)
    except ValueError as error:
        raise WeightsError(f"{weights.source}: {error}") from None
    if weights.architecture and not weights.presumed and not find_spec(weights.architecture).matches(row.hyper):
        raise WeightsError(f"{weights.source}: says that it is of {weights.architecture}, and not of {network}")
    if row.family != weights.family.name:
        raise WeightsError(f"{weights.source}: is of the family {weights.family.name}, and {network} of {row.family}")
    if weights.shape is not None and not same_network(row, weights.shape, weights.family):
        raise WeightsError(f"{weights.source}: is of no {network}: its tensors are {weights.shape}")
    facts = replace(weights.facts, hyper=settings_of(network))
    doubt = Doubt.of(weights)
    alike = doubt.like(row) if doubt else None
    if alike and alike.preprocessing and facts.basis != "stated":
        facts = replace(facts, preprocessing=alike.preprocessing, basis="usual")
    usual = [
        f"{name}={value}" for name, value in weights.facts.hyper.items() if value not in (None, facts.hyper.get(name))
    ]
    notes = [f"such files ({weights.layout}) usually have {', '.join(usual)}; these are {network}'s, as was said"]
    notes = [*weights.notes, *(notes if usual else [])]
    return replace(weights, architecture=network, presumed=False, facts=facts, notes=notes)


@dataclass(frozen=True)
class Doubt:
    """Names and shapes that fit a row and others' networks besides, and nothing that is believed to tell which.

    Attributes:
        row: what most such weights are of.
        alike: the others.
        named, where: the one of them after which the file calls itself, and where it does; None where it does not.
    """

    row: Spec
    alike: tuple[LookAlike, ...]
    named: LookAlike | None = None
    where: str = ""

    @classmethod
    def of(cls, weights: WeightsFile) -> Doubt | None:
        """What is in doubt about weights, or None."""
        family, shape = weights.family, weights.shape
        if (weights.architecture and not weights.presumed) or shape is None:
            return None
        if shape.has_se and not weights.presumed:
            return None
        rows = [row for row in family.rows if row.se is None and same_network(row, shape, family)]
        for row in rows:
            alike = tuple(
                other
                for other in family.look_alikes
                if row.name in other.rows and (weights.presumed or weights.layout in other.layouts)
            )
            if alike:
                return cls(row, alike)._asked(weights)
        return None

    def _asked(self, weights: WeightsFile) -> Doubt | None:
        for where, text in weights.names_itself:
            for other in self.alike:
                if re.search(other.known_by, text, re.IGNORECASE):
                    return replace(self, named=other, where=f"{where}, {text!r},")
        if weights.family.releases.get(weights.sha256[:8]) == self.row.name:
            return None
        if re.sub(r"\W|_", "", weights.released_as) == re.sub(r"\W|_", "", self.row.name):
            return None
        return self

    def like(self, spec: Spec) -> LookAlike | None:
        """Which of the others a row of the table is, if any."""
        return next((other for other in self.alike if (row := self.row_of(other)) and row.matches(spec.hyper)), None)

    def row_of(self, other: LookAlike) -> Spec | None:
        """The row that one of the others is."""
        return find_spec(other.is_row.format(self.row.name)) if other.is_row else None

    def sentence(self) -> str:
        """What the weights may be of."""
        if self.named:
            return (
                f"{self.where} means {self.named.who}, which {self.named.what}: names and shapes are those of "
                f"{self.row.name}, and outputs are not"
            )
        return (
            f"names and shapes are those of {self.row.name}, and of others too: "
            f"{', '.join(other.who for other in self.alike)}"
        )
