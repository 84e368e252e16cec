"""The cells of a study: one run for each row and seed, and the folder that it has whichever study asks for it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fvcore.common.config import CfgNode

from engine.errors import UserError
from engine.run.folder import results
from studies.lab.study import Base, Row, Study, Surgery, spec_of
from studies.lab.tasks import KINDS, Kind

# Keys that decide where, how fast or how talkatively a run is made, and not what comes of it.
_NO_MATTER = (
    "OUTPUT_DIR", "LOG_PERIOD", "DATA.CACHE", "DATALOADER.NUM_WORKERS", "MODEL.DEVICE", "SOLVER.CHECKPOINT_EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_CHECKPOINTS", "TEST.IMS_PER_BATCH",
)  # fmt: skip
_EVALUATIONS = ("TEST.EVAL_EPOCHS", "TEST.EVAL_PERIOD")
CUT = "cut.pth"  # in a cell's folder: the weights that its surgery made
PLACES = re.compile(r"(^|\.)(ROOT|CACHE|JSON|IMAGES)$")  # keys of files: two ways of writing one place are one


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a study.

    Attributes:
        number: from 1, in the order of the study.
        row, seed: what it is of.
        kind: of its task.
        config, words: what is run, as on the command line of a training.
        cfg: the same, resolved; of a cut network without its widths, which are not known before it is cut (see
            ``studies.lab.surgery.config_of``).
        folder: the run's.
        source: the cell whose final weights it evaluates or begins with; None where it has none, or was given them.
        origin: the file of those weights; "" where it has none.
    """

    number: int
    row: Row
    seed: int
    kind: Kind
    config: str
    words: tuple[str, ...]
    cfg: CfgNode
    folder: Path
    evaluates: bool = False
    source: Cell | None = None
    origin: str = ""

    @property
    def result(self) -> Path:
        """The file that a whole run ends with."""
        return self.results / "result.json"

    @property
    def results(self) -> Path:
        """The folder of its figures and predictions."""
        return self.folder / "evaluation" if self.evaluates else self.folder

    @property
    def done(self) -> bool:
        return self.result.is_file()

    @property
    def begun(self) -> bool:
        """Whether its folder holds a run that has not come to its end."""
        return not self.done and bool(results(self.folder, self.kind.info))


@dataclass(frozen=True)
class Plan:
    """What a study consists of with the settings of one command.

    Attributes:
        study, scale, base: what it is; ``config``: the base config in force.
        kind: of its task; ``words``: on top of the base config for all cells.
        cells: the rows' runs, in order; ``sources``: trainings that are in no row, whose weights are evaluated.
    """

    study: Study
    scale: str
    base: Base
    config: str
    kind: Kind
    words: tuple[str, ...]
    cells: tuple[Cell, ...]
    sources: tuple[Cell, ...] = ()

    @property
    def runs(self) -> tuple[Cell, ...]:
        """All cells, in the order in which they are made."""
        return (*self.sources, *self.cells)


def plan(
    study: Study,
    scale: str,
    output: Path,
    seeds: int = 1,
    config: str | None = None,
    words: Sequence[str] = (),
) -> Plan:
    """The cells of a study.

    Args:
        output: the folder of all runs, whichever study they are of.
        seeds: of each row, from SEED of the config upwards.
        config: in place of the base's and the rows' own.
        words: ``KEY VALUE`` words on top, for every cell.

    Raises:
        UserError: a config that cannot be read, or a row that the base network cannot have.
    """
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1; got {seeds}")
    base = study.base(scale)
    kind, shared = KINDS[base.task], config or base.config
    words = (*base.words, *words)
    first = kind.load_config(shared, list(words))
    rows = tuple(study.rows(spec_of(first.MODEL.BACKBONE.ARCHITECTURE), scale))
    given = bool(first.MODEL.WEIGHTS)
    pairs = []
    for row in rows:
        yardstick = not row.pair and study.reference_of(row, rows, scale) is row
        count = max(seeds, base.yardstick) if yardstick else seeds
        count = 1 if row.evaluates and (given or study.one_source) else count  # nothing is drawn at random there
        pairs += [(row, seed) for seed in range(first.SEED, first.SEED + count)]
    make = partial(_cell, kind, config, shared, words, output)
    source_of = {seed: first.SEED if study.one_source else seed for _, seed in pairs}
    trained = dict.fromkeys(source_of[seed] for row, seed in pairs if row.needs_weights and not given)
    sources = {seed: make(number, Row("training"), seed) for number, seed in enumerate(trained, 1)}
    cells = [
        make(number, row, seed, sources.get(source_of[seed]) if row.needs_weights else None)
        for number, (row, seed) in enumerate(pairs, 1 + len(sources))
    ]
    return Plan(study, scale, base, shared, kind, words, tuple(cells), tuple(sources.values()))


def _cell(
    kind: Kind,
    given: str | None,
    shared: str,
    words: Sequence[str],
    output: Path,
    number: int,
    row: Row,
    seed: int,
    source: Cell | None = None,
) -> Cell:
    config = given or row.config or shared
    words = [*words, *_without_se(kind, config, words, row), *row.changes, "SEED", str(seed)]
    if source is not None:
        words += ["MODEL.WEIGHTS", str(source.folder / "model_final.pth")]
    try:
        cfg = kind.load_config(config, words)
    except UserError as error:
        raise UserError(f"the row {row.name!r} ({' '.join(row.changes)}): {error}") from error
    name = folder_name(kind, cfg, row.evaluates, source.folder.name if source else None, row.surgery)
    folder = Path(output) / name
    origin = cfg.MODEL.WEIGHTS if row.needs_weights else ""
    if row.surgery is not None:
        if not origin:
            raise UserError(f"the row {row.name!r} ({row.surgery}) needs trained weights to cut")
        words += ["MODEL.WEIGHTS", str(folder / CUT) if row.surgery.weights else ""]
    words += ["OUTPUT_DIR", str(folder)]
    return Cell(number, row, seed, kind, config, tuple(words), cfg, folder, row.evaluates, source, origin)


def _without_se(kind: Kind, config: str, words: Sequence[str], row: Row) -> list[str]:
    """The words that take back a base's settings of SE, for a row whose network has none."""
    chosen = dict(zip(row.changes[::2], row.changes[1::2], strict=True)).get("MODEL.BACKBONE.ARCHITECTURE")
    if chosen is None or spec_of(chosen).se is not None:
        return []
    defaults, own = kind.load_config(None).MODEL.SE, kind.load_config(config, list(words)).MODEL.SE
    return [word for key in own if own[key] != defaults[key] for word in (f"MODEL.SE.{key}", str(defaults[key]))]


def folder_name(
    kind: Kind, cfg: CfgNode, evaluates: bool = False, source: str | None = None, surgery: Surgery | None = None
) -> str:
    """The name of a run's folder: its network, its seed, and a hash of everything that decides what comes of it, so
    that equal runs have one folder.

    Only keys that differ from their defaults count: a key that another version of this package adds leaves a folder's
    name as it is.

    Args:
        source: the folder of the run whose weights it evaluates, in place of MODEL.WEIGHTS.
        surgery: what is done to these weights first.
    """
    settings = own_settings(kind, cfg)
    if source is not None:
        settings["MODEL.WEIGHTS"] = source
    if surgery is not None:
        settings["surgery"] = [surgery.kind, dict(surgery.settings), surgery.weights]
    network = cfg.MODEL.BACKBONE.ARCHITECTURE
    content = json.dumps([kind.info.name, network, evaluates, settings], sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    return f"{network}{'_evaluated' if evaluates else ''}_seed{cfg.SEED}_{digest}"


def own_settings(kind: Kind, cfg: CfgNode) -> dict[str, object]:
    """Key → value of everything that decides what comes of a run and is not as by default."""
    by_evaluations = cfg.SOLVER.LR_SCHEDULER_NAME == "Plateau"  # when there is one matters there
    differing = _differing(cfg, kind.load_config(None))
    return {key: value for key, value in differing if key not in _EVALUATIONS or by_evaluations}


def _differing(cfg: CfgNode, defaults: CfgNode, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in cfg.items():
        name = prefix + key
        if isinstance(value, CfgNode):
            yield from _differing(value, defaults[key], f"{name}.")
        elif name not in _NO_MATTER and _plain(value) != _plain(defaults[key]):
            yield name, _place(value) if PLACES.search(name) else _plain(value)


def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _place(value: str) -> str:
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value


def format_cells(plan: Plan) -> str:
    """The cells as a table of text: number, row, seed, state, changes and folder."""
    lines = [("cell", "row", "seed", "state", "changes", "folder")]
    for cell in plan.runs:
        state = "whole" if cell.done else "begun" if cell.begun else "-"
        if cell.source is not None:
            state += f", weights of {cell.source.number}"
        changes = " ".join([f"[{cell.row.surgery}]"] * bool(cell.row.surgery) + [*cell.row.changes]) or "-"
        lines.append((str(cell.number), cell.row.name, str(cell.seed), state, changes, str(cell.folder)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    return "\n".join(
        "  ".join((*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1])) for line in lines
    )
