"""What a study is: a base config at each scale, and rows that change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import UserError
from se_backbones.registry import Spec, find_spec, twin_name
from studies.lab.paper import PaperRow, Table, paper_table

SCALES = ("cpu", "paper")


@dataclass(frozen=True)
class Base:
    """What the rows of a study change, at one scale.

    Attributes:
        task: ``classification``, ``places365`` or ``detection``; see ``studies.lab.tasks``.
        config: a config file.
        words: ``KEY VALUE`` words on top of it.
        yardstick: seeds of the study's reference row, at least; what another seed changes is known from these where
            the other rows have one.
    """

    task: str
    config: str
    words: tuple[str, ...] = ()
    yardstick: int = 1


@dataclass(frozen=True, eq=False)
class Row:
    """A line of a study's table.

    Attributes:
        name: for people.
        changes: ``KEY VALUE`` words on top of the base's.
        paper: what is published of it.
        evaluates: nothing is trained with these changes: they say how weights are evaluated, those that are given as
            MODEL.WEIGHTS, or else those of the base config's own training.
    """

    name: str
    changes: tuple[str, ...] = ()
    paper: tuple[PaperRow, ...] = ()
    evaluates: bool = False


@dataclass(frozen=True)
class Measured:
    """What a measure found in a run.

    Attributes:
        numbers: for the study's JSON: {"columns": […], "rows": [[…], …], "text": […]}, a table and sentences.
        pictures: file name → PNG.
    """

    numbers: Mapping
    pictures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper, or a question of one's own.

    Attributes:
        name: as in ``tools/study.py NAME``; ``title``, ``compares``: a headline, and a sentence.
        tables: names of the paper's tables that it attempts.
        bases: scale → its base.
        rows: (the base network's row of the registry, scale) → the rows.
        reference: the row that the others are held against, by name.
        measure: (run folder, overrides of where the data are) → what else is to be said of each run; None for nothing.
    """

    name: str
    title: str
    compares: str
    tables: tuple[str, ...]
    bases: Mapping[str, Base]
    rows: Callable[[Spec, str], tuple[Row, ...]]
    reference: str
    measure: Callable[[Path, Mapping[str, str]], Measured] | None = None

    @property
    def published(self) -> tuple[Table, ...]:
        """The tables, with their titles and sources."""
        return tuple(map(paper_table, self.tables))

    def base(self, scale: str) -> Base:
        """The base at a scale. Raises UserError where the study has none."""
        if scale not in self.bases:
            raise UserError(f"{self.name} has no scale {scale!r}; it has {', '.join(self.bases)}")
        return self.bases[scale]


def network(name: str) -> tuple[str, str]:
    """The words that choose a network."""
    return ("MODEL.BACKBONE.ARCHITECTURE", name)


def plain(base: Spec) -> tuple[str, str]:
    """The words that choose a network's plain twin. Raises UserError where it has none."""
    return network(_twin(base, se=False))


def with_se(base: Spec) -> tuple[str, str]:
    """The words that choose a network's twin with SE. Raises UserError where it has none."""
    return network(_twin(base, se=True))


def _twin(base: Spec, se: bool) -> str:
    if bool(base.se) == se:
        return base.name
    name = twin_name(base, se)
    if name is None:
        raise UserError(f"{base.name} has no twin {'with' if se else 'without'} SE, which this study needs")
    return name


def stages_of(base: Spec) -> tuple[str, ...]:
    """The stages that can carry SE, first to last."""
    return tuple(dict.fromkeys(stage for _, stage in base.sites()))


def spec_of(name: str) -> Spec:
    """The registry's row of a network. Raises UserError for an unknown name."""
    try:
        return find_spec(name)
    except ValueError as error:
        raise UserError(str(error)) from error
