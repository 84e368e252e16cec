"""The published figures: ``paper_tables.json`` beside the studies, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from engine.errors import UserError
from engine.json_files import read_json

FILE = Path(__file__).resolve().parents[1] / "paper_tables.json"
FROM_MEMORY = "mem"  # the source of what nobody has looked up

# What a table calls our figures, and what one of its units is in ours. Errors and AP are in percent on both sides,
# parameters and multiply-adds counts.
FIGURES = MappingProxyType(
    {
        "top1": ("top1_error", 1),
        "top5": ("top5_error", 1),
        "ap": ("AP", 1),
        "ap50": ("AP50", 1),
        "params_m": ("parameters", 1_000_000),
        "gflops": ("multiply_adds", 1_000_000_000),
        "mflops": ("multiply_adds", 1_000_000),
    }
)


@dataclass(frozen=True)
class PaperRow:
    """A row of a table, as far as a study of ours has figures beside it.

    Attributes:
        table: the table's name in the file; ``model``: the row's.
        figures: ours by name → the published number, errors and AP in percent, parameters and multiply-adds as counts.
    """

    table: str
    model: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """A table of the file.

    Attributes:
        name: its key; title, note: as there.
        sources: where its numbers were read, in words; ``from_memory``: nobody has looked them up.
        rows: model → its other entries.
    """

    name: str
    title: str
    note: str
    sources: tuple[str, ...]
    from_memory: bool
    rows: Mapping[str, Mapping]

    @property
    def number(self) -> str:
        """ "table 10" for ``table10_reduction``, "the text" for what stands in no table, else the title."""
        head = self.name.partition("_")[0]
        if head.startswith("table"):
            return f"table {head.removeprefix('table')}"
        return "the text" if head == "text" else self.title

    def row(self, model: str, figures: Mapping[str, str] | None = None, prefix: str = "") -> PaperRow:
        """One row's figures that are ours too.

        Args:
            figures: the row's entry → the table's usual name for it, where an entry has another: ``{"se": "top1"}``.
            prefix: of the entries to take: ``se_`` for ``se_top1``.

        Raises:
            ValueError: no such row, or nothing in it that is a figure of ours.
        """
        if model not in self.rows:
            raise ValueError(f"{self.name} has no row {model!r}; it has {', '.join(self.rows)}")
        named = {entry: FIGURES[usual] for entry, usual in (figures or {}).items()}
        named = named or {prefix + usual: ours for usual, ours in FIGURES.items()}
        values = self.rows[model]
        found = {ours: values[entry] * unit for entry, (ours, unit) in named.items() if values.get(entry) is not None}
        if not found:
            raise ValueError(f"{self.name}: the row {model!r} has none of {', '.join(named)}")
        return PaperRow(self.name, model, MappingProxyType(found))


@cache
def tables() -> Mapping[str, Table]:
    """Every table of the file by name. Raises UserError where the file is not what it should be."""
    content = read_json(FILE, "the paper's tables")
    try:
        known = content["sources"]
        return MappingProxyType({name: _table(name, entry, known) for name, entry in content["tables"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the paper's tables: {FILE} is not in its form: {error!r}") from error


def paper_table(name: str) -> Table:
    """A table of the file. Raises ValueError for an unknown name."""
    if name not in tables():
        raise ValueError(f"the paper's tables have no {name!r}; they have {', '.join(tables())}")
    return tables()[name]


def paper_row(table: str, model: str, figures: Mapping[str, str] | None = None, prefix: str = "") -> PaperRow:
    """A row of a table; see ``Table.row``."""
    return paper_table(table).row(model, figures, prefix)


def _table(name: str, entry: Mapping, known: Mapping[str, str]) -> Table:
    rows = {row["model"]: MappingProxyType({k: v for k, v in row.items() if k != "model"}) for row in entry["rows"]}
    if len(rows) != len(entry["rows"]):
        raise KeyError(f"{name}: two rows of one name")
    sources = tuple(_source(source, known) for source in entry["sources"])
    from_memory = FROM_MEMORY in entry["sources"]
    return Table(name, entry["title"], entry.get("note", ""), sources, from_memory, MappingProxyType(rows))


def _source(source: str, known: Mapping[str, str]) -> str:
    """ "C (without r=2)" is source C with a remark."""
    letter, _, remark = source.partition(" ")
    return f"{known[letter]} {remark}".rstrip()


def published_figures(row: Mapping) -> dict[str, float]:
    """Our figures' names → the paper's numbers of a row; the first of its tables that has one counts."""
    found: dict[str, float] = {}
    for paper in reversed(row["paper"]):
        found |= paper["figures"]
    return found
