"""All studies by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engine.errors import UserError
from studies import (
    bias,
    cifar,
    crops,
    detection,
    excitation,
    networks,
    nosqueeze,
    placement,
    places,
    pruning,
    ratios,
    reduction,
    role_of_excitation,
    schedule,
    squeeze,
    stages,
)
from studies.lab.study import Study

# In the order of the paper's tables.
STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        study.name: study
        for study in (
            networks.STUDY,
            cifar.STUDY,
            cifar.CIFAR100,
            places.STUDY,
            detection.STUDY,
            crops.STUDY,
            reduction.STUDY,
            squeeze.STUDY,
            excitation.STUDY,
            stages.STUDY,
            placement.STUDY,
            nosqueeze.STUDY,
            bias.STUDY,
            schedule.STUDY,
            role_of_excitation.STUDY,
            pruning.STUDY,
            ratios.STUDY,
        )
    }
)


def find_study(name: str) -> Study:
    """A study by name. Raises UserError for an unknown one, naming all."""
    if name not in STUDIES:
        raise UserError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]


def format_studies() -> str:
    """All studies in lines: name, tables and what is compared."""
    lines = []
    for study in STUDIES.values():
        numbers = ", ".join(dict.fromkeys(table.number for table in study.published)) or "-"
        lines.append(f"{study.name:<20}{numbers:<20}{study.compares}")
    return "\n".join(lines)
