"""All studies by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engine.errors import UserError
from studies import bias, excitation, nosqueeze, placement, reduction, squeeze, stages
from studies.lab.study import Study

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        module.STUDY.name: module.STUDY
        for module in (reduction, squeeze, excitation, stages, placement, nosqueeze, bias)
    }
)


def find_study(name: str) -> Study:
    """A study by name. Raises UserError for an unknown one, naming all."""
    if name not in STUDIES:
        raise UserError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    return STUDIES[name]
