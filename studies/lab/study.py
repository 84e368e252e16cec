"""What a study is: a base config at each scale, and rows that change it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Surgery:
    """What is done to trained weights before a row trains on from them.

    Attributes:
        kind: by its name in ``studies.lab.surgery``.
        settings: (name, plain value) pairs that the kind takes.
        weights: False: the row takes the cut network's widths alone, and begins with random weights.
    """

    kind: str
    settings: tuple[tuple[str, object], ...] = ()
    weights: bool = True

    def __str__(self) -> str:
        told = " ".join([self.kind, *(f"{name} {value}" for name, value in self.settings)])
        return told if self.weights else f"{told}, its widths alone"


@dataclass(frozen=True, eq=False)
class Row:
    """A line of a study's table.

    Attributes:
        name: for people.
        changes: ``KEY VALUE`` words on top of the base's.
        paper: what is published of it.
        pair: rows of one pair are held against each other alone, the first of them being the reference; "": against
            all rows that have none.
        config: another config in place of the base's, with another recipe.
        evaluates: nothing is trained with these changes: they say how weights are evaluated, those that are given as
            MODEL.WEIGHTS, or else those of the base config's own training.
        goes_on: it trains, beginning with those same weights.
        surgery: it trains, or is evaluated, with what this makes of those same weights.
    """

    name: str
    changes: tuple[str, ...] = ()
    paper: tuple[PaperRow, ...] = ()
    pair: str = ""
    config: str = ""
    evaluates: bool = False
    goes_on: bool = False
    surgery: Surgery | None = None

    @property
    def needs_weights(self) -> bool:
        """Whether it is of another cell's weights."""
        return self.evaluates or self.goes_on or self.surgery is not None

    @property
    def trains_on(self) -> bool:
        """Whether its training begins with another cell's weights, and so with one start for all of its seeds."""
        return self.goes_on or (self.surgery is not None and self.surgery.weights)


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper, or a question of one's own.

    Attributes:
        name: as in ``tools/study.py NAME``; ``title``, ``compares``: a headline, and a sentence.
        tables: names of the paper's tables that it attempts.
        bases: scale → its base.
        rows: (the base network's row of the registry, scale) → the rows.
        reference: the row that the others are held against, by name; one for all scales, or scale → one; "": the first.
        beside: tables of the paper that are shown as they are.
        gates: what the gates of the first run do is recorded too; see ``studies.lab.gates``.
        one_source: the rows that need weights all have those of one training, whatever their own seed; else each seed
            has a training of its own.
    """

    name: str
    title: str
    compares: str
    tables: tuple[str, ...]
    bases: Mapping[str, Base]
    rows: Callable[[Spec, str], Iterable[Row]]
    reference: str | Mapping[str, str] = ""
    beside: tuple[str, ...] = ()
    gates: bool = False
    one_source: bool = False

    @property
    def published(self) -> tuple[Table, ...]:
        """The tables, with their titles and sources."""
        return tuple(map(paper_table, self.tables))

    def reference_of(self, row: Row, rows: Sequence[Row], scale: str) -> Row:
        """The row that a row's differences are to."""
        own = [other for other in rows if other.pair == row.pair]
        name = self.reference if isinstance(self.reference, str) else self.reference[scale]
        return next((other for other in own if other.name == name and not row.pair), own[0])

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


def pair_of(base: Spec, paper: tuple[tuple[PaperRow, ...], tuple[PaperRow, ...]]) -> tuple[Row, Row]:
    """A network and its twin as rows, the plain one first.

    Args:
        paper: what is published beside the one and the other.

    Raises:
        UserError: it has no twin.
    """
    names = (_twin(base, se=False), _twin(base, se=True))
    first, second = (
        Row(name, network(name), published, pair=names[0]) for name, published in zip(names, paper, strict=True)
    )
    return first, second


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
