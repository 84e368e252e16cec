"""Rows that begin with weights which a surgery makes out of their source's: what is cut, when, and what is kept of it.

The cut weights lie in the cell's folder, ``cut.pth``, an ordinary checkpoint, and beside them ``cut.json`` with the
config keys that the cut network needs and what the surgery has to tell. The surgery and its settings count for the
folder's name; what it found does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from fvcore.common.config import CfgNode

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.json_files import read_json, write_json
from engine.slim.config import config_of as config_of_network
from engine.slim.prune import pruned
from engine.slim.ratios import ratios
from se_backbones.registry import Spec
from studies.lab.cells import CUT, PLACES, Cell, own_settings

# kind → (subject, the cell's seed, **the row's settings) → what there is to tell, as plain values. It changes the
# subject's network in place, and its spec with it. What comes of it is a function of these arguments and of the data.
# A ValueError or UserError of it is told with the row's name.
SURGERIES: Mapping[str, Callable[..., dict]] = MappingProxyType({"prune": pruned, "ratios": ratios})


def cut(cell: Cell) -> list[str]:
    """Carries out a cell's surgery, unless that was done before: its report is written last, so that a killed study
    does it anew. To be called in one process.

    Returns:
        the ``KEY VALUE`` words that the cut network needs on top of the cell's own.

    Raises:
        UserError: no such surgery, or it refuses the network or its settings.
    """
    if not _report(cell).is_file():
        surgery = cell.row.surgery
        if surgery.kind not in SURGERIES:
            raise UserError(f"there is no surgery {surgery.kind!r}; there are {', '.join(SURGERIES)}")
        subject = cell.kind.subject(Path(cell.origin), cell.cfg.MODEL.DEVICE, None, _places(cell))
        try:
            told = SURGERIES[surgery.kind](subject, cell.seed, **dict(surgery.settings))
        except (ValueError, UserError) as error:
            raise UserError(f"the row {cell.row.name!r} ({surgery}): {error}") from error
        subject.write(cell.folder / CUT, told)
        write_json(_report(cell), {"words": _network_words(cell, subject.network.spec), "told": told})
    return words_of(cell)


def words_of(cell: Cell) -> list[str]:
    """What ``cut`` returns, of a cell that is cut; none of another one."""
    return _content(cell)["words"] if _report(cell).is_file() else []


def told_of(cell: Cell) -> dict | None:
    """What the surgery of a cell told; None where it has not been carried out, or there is none."""
    return _content(cell)["told"] if _report(cell).is_file() else None


def config_of(cell: Cell) -> CfgNode:
    """A cell's config with the widths of its cut network."""
    words = words_of(cell)
    return cell.kind.load_config(cell.config, [*cell.words, *words]) if words else cell.cfg


def _network_words(cell: Cell, spec: Spec) -> list[str]:
    """The words with which the cell's config describes a cut network."""
    there, wanted = cell.cfg.MODEL, config_of_network(cell.cfg, spec, cell.folder / CUT).MODEL
    words = []
    for part in ("BACKBONE", "SE"):
        differing = [key for key, value in wanted[part].items() if value != there[part][key]]
        words += [word for key in differing for word in (f"MODEL.{part}.{key}", str(wanted[part][key]))]
    return words


def _report(cell: Cell) -> Path:
    return (cell.folder / CUT).with_suffix(".json")


def _content(cell: Cell) -> dict:
    return read_json(_report(cell), "the account of a surgery")


def _places(cell: Cell) -> list[str]:
    """The words that say where the data are: the source may have been trained with them elsewhere."""
    places = {key: str(value) for key, value in own_settings(cell.kind, cell.cfg).items() if PLACES.search(key)}
    if "CACHE" in cell.cfg.DATA:  # which decides nothing, and so is no setting of a cell's own
        places["DATA.CACHE"] = cell.cfg.DATA.CACHE
    return [word for pair in places.items() for word in pair]
