"""A study's result: from the files of its runs to one JSON, from which all that is shown is made."""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from classification.evaluation.answers import read_guesses
from classification.model import build_network
from detection.coco_ap.bootstrap import MatchedDetections, paired_bootstrap
from detection.locate import read_split
from engine import compat  # noqa: F401  (before detectron2)
from engine.config.shipped import find_config
from engine.errors import UserError
from engine.json_files import read_json
from engine.report.cost import count_multiply_adds
from engine.run.experiment import on_device
from engine.run.folder import command, versions
from engine.statistics import (
    LEVEL,
    binomial_error,
    deviation,
    holm,
    image_votes,
    mcnemar,
    mean,
    pooled_deviation,
    seed_test,
)
from studies.lab.cells import PLACES, Cell, Plan, own_settings
from studies.lab.gates import gates_of
from studies.lab.study import Row
from studies.lab.surgery import config_of, told_of

T = TypeVar("T")


def outcome(plan: Plan, note: str | None = None) -> dict:
    """What came of a study, of the cells that are there.

    Args:
        note: a caveat of the data, in place of the one in the config's header.

    Returns:
        plain values: what was run and how, ``rows`` with each run's figures, ``comparisons`` of the pairs of rows, and
        ``missing``, the cells that are not there.

    Raises:
        UserError: no cell is there, or a run's files cannot be read.
    """
    whole = {cell.number: read_json(cell.result, "a run's result") for cell in plan.cells if cell.done}
    if not whole:
        raise UserError(f"{plan.study.name}: none of its {len(plan.cells)} cells is there yet")
    rows = list(dict.fromkeys(cell.row for cell in plan.cells))
    by_row = {row: [cell for cell in plan.cells if cell.row == row and cell.number in whole] for row in rows}
    first = next(iter(whole.values()))
    gates = {"gates": gates_of(next(cell for cell in plan.cells if cell.done))} if plan.study.gates else {}
    return {
        "study": plan.study.name,
        "title": plan.study.title,
        "compares": plan.study.compares,
        "tables": list(plan.study.tables),
        "scale": plan.scale,
        "task": plan.kind.info.name,
        "config": plan.config,
        "words": _words_to_show(plan),
        "note": config_note(plan.config, _places(plan)) if note is None else note,
        "base": plan.kind.load_config(plan.config, list(plan.words)).MODEL.BACKBONE.ARCHITECTURE,
        "beside": list(plan.study.beside),
        "recipe": recipe(plan),
        "dataset": _dataset(first, plan),
        "images": first["images"],
        "figures": list(plan.kind.figures),
        "errors": plan.kind.errors,
        "rows": [
            _row(row, cells, whole) | {"reference": plan.study.reference_of(row, rows, plan.scale).name}
            for row, cells in by_row.items()
        ],
        "comparisons": _comparisons(plan, by_row, whole),
        "level": LEVEL,
        "missing": [[cell.number, cell.row.name, cell.seed] for cell in plan.cells if cell.number not in whole],
        "command": command(),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        **gates,
    }


def config_note(config: str, data: Sequence[str]) -> str:
    """The caveat of a data set that a config's header has, under "Note of NAME:", the line and those indented below it;
    empty where it has none of these data.

    Args:
        data: places of the data; NAME is a part of one of them.
    """
    lines = find_config(config).read_text(encoding="utf-8").splitlines()
    parts = {part for place in data for part in Path(place).parts}
    for number, line in enumerate(lines):
        if (found := re.match(r"# Note of (\S+): (.*)", line)) and found[1] in parts:
            more = itertools.takewhile(lambda below: below.startswith("#   "), lines[number + 1 :])
            return " ".join([found[2], *(below[1:].strip() for below in more)])
    return ""


def recipe(plan: Plan) -> dict:
    """Every setting of the base that is not as by default, and those that a reader asks for first."""
    base = plan.kind.load_config(plan.config, list(plan.words))
    asked = ("EPOCHS", "MAX_ITER", "IMS_PER_BATCH", "BASE_LR", "LR_SCHEDULER_NAME", "OPTIMIZER", "PRECISION")
    first = {f"SOLVER.{key}": base.SOLVER[key] for key in asked if key in base.SOLVER}
    places = ("DATA.", "SEED", "MODEL.WEIGHTS")
    rest = {key: value for key, value in own_settings(plan.kind, base).items() if not key.startswith(places)}
    return first | rest


def _places(plan: Plan) -> list[str]:
    """Where the data of a plan are."""
    return [str(value) for key, value in own_settings(plan.kind, plan.cells[0].cfg).items() if PLACES.search(key)]


def _words_to_show(plan: Plan) -> list[str]:
    """Without the places of files, which say nothing to anybody elsewhere."""
    pairs = zip(plan.words[::2], plan.words[1::2], strict=True)
    return [word for key, value in pairs if key != "MODEL.DEVICE" and not PLACES.search(key) for word in (key, value)]


def _dataset(result: Mapping, plan: Plan) -> str:
    """The set's name and split; of a path the last part."""
    place, _, split = str(result["dataset"]).rpartition(" ")
    return " ".join(filter(None, (Path(place).name, split)))


def _row(row: Row, cells: Sequence[Cell], whole: Mapping[int, dict]) -> dict:
    runs = [_run(cell, whole[cell.number]) for cell in cells]
    entry = {
        "name": row.name,
        "changes": [*(["--config", row.config] if row.config else []), *row.changes],
        "paper": [{"table": p.table, "model": p.model, "figures": dict(p.figures)} for p in row.paper],
        "runs": runs,
    }
    if row.surgery is not None:
        entry |= {"surgery": str(row.surgery), "cut": next(filter(None, map(told_of, cells)), None)}
    if runs:
        kind, images = cells[0].kind, whole[cells[0].number]["images"]
        columns = {name: [run["figures"][name] for run in runs] for name in kind.figures}
        entry |= {
            "parameters": whole[cells[0].number]["parameters"],
            "multiply_adds": multiply_adds(cells[0], whole[cells[0].number]),
            "mean": {name: mean(values) for name, values in columns.items()},
            "deviation": {name: deviation(values) for name, values in columns.items()},
            "binomial_error": {
                name: binomial_error(mean(values), images) if kind.errors else None for name, values in columns.items()
            },
        }
    return entry


def _run(cell: Cell, result: Mapping) -> dict:
    figures = result[cell.kind.group]
    return {
        "cell": cell.number,
        "seed": cell.seed,
        "folder": cell.folder.name,
        "figures": {name: figures[name] for name in cell.kind.figures},
        "steps": result.get("iteration"),
        "seconds": result.get("training_seconds"),
        "hardware": result.get("hardware"),
        "versions": result.get("versions"),
        "command": result.get("command"),
    }


def multiply_adds(cell: Cell, result: Mapping) -> int | None:
    """Of one image of the evaluation's size, as ``engine.report.cost`` counts them; None for detectors."""
    if not cell.kind.test_size:
        return None
    classes = len(result["per_category"][cell.kind.group])
    cfg = on_device(config_of(cell), "cpu")
    return count_multiply_adds(build_network(cfg, classes), cfg.INPUT.TEST_SIZE)


def right_images(cell: Cell) -> dict[str, bool]:
    """File → whether the first guess was its class, of a run's evaluation. An image that could not be read is wrong."""
    guesses = read_guesses(cell.results / cell.kind.info.predictions_file)
    return {file: guess.right for file, guess in guesses.items()}


def matched_detections(cell: Cell) -> MatchedDetections:
    """A run's detections, matched to the ground truth. Raises UserError where that is no longer there."""
    _, ground_truth = read_split(cell.cfg, "VAL")
    return MatchedDetections(ground_truth.coco, cell.results / cell.kind.info.predictions_file)


def _comparisons(plan: Plan, by_row: Mapping[Row, Sequence[Cell]], whole: Mapping[int, dict]) -> list[dict]:
    """Each two rows that have runs and are held against each other, and tested over images: classifiers by their right
    ones, detectors by AP of images drawn anew."""
    kind, main = plan.kind, plan.kind.figures[0]
    values = {row: [whole[cell.number][kind.group][main] for cell in cells] for row, cells in by_row.items() if cells}
    # What begins with the same weights scatters less, by far, than what begins with random ones.
    pooled = {
        kin: pooled_deviation([figures for row, figures in values.items() if row.trains_on == kin])
        for kin in (False, True)
    }
    seen = right_images if kind.errors else matched_detections
    found = {cell: seen(cell) for cells in by_row.values() for cell in cells}
    test = _image_test if kind.errors else _draw_test
    pairs = []
    for first, second in ((a, b) for a, b in combinations(values, 2) if a.pair == b.pair):
        entry = {
            "first": first.name,
            "second": second.name,
            "difference": mean(values[second]) - mean(values[first]),
            "seed_p": seed_test(
                values[first], values[second], pooled[first.trains_on] if first.trains_on == second.trains_on else None
            ),
        }
        entry["second_is_better"] = (entry["difference"] < 0) == kind.errors and entry["difference"] != 0
        pairs.append(entry | test(by_row[first], by_row[second], found))
    tested = [pair for pair in pairs if "p" in pair]
    for pair, corrected in zip(tested, holm([pair["p"] for pair in tested]), strict=True):
        pair["p_holm"] = corrected
    for pair in pairs:
        pair["verdict"] = verdict(pair)
    return pairs


def _image_test(first: Sequence[Cell], second: Sequence[Cell], right: Mapping[Cell, Mapping[str, bool]]) -> dict:
    """Of the seeds that both rows have, on the images that both were evaluated on: all, or there is no test."""
    common, ours, theirs = _of_common_seeds(first, second, right)
    if not common or any(seen.keys() != ours[0].keys() for seen in (*ours, *theirs)):
        return {}
    files = list(ours[0])
    votes = image_votes(*([[seen[file] for file in files] for seen in row] for row in (ours, theirs)))
    return {"seeds": common, "votes": list(votes), "p": mcnemar(*votes)}


def _draw_test(first: Sequence[Cell], second: Sequence[Cell], found: Mapping[Cell, MatchedDetections]) -> dict:
    """As ``_image_test``, for detectors."""
    common, ours, theirs = _of_common_seeds(first, second, found)
    if not common or any(matched.images != ours[0].images or matched.ap() is None for matched in (*ours, *theirs)):
        return {}
    told = paired_bootstrap(ours, theirs)
    return {"seeds": common, "interval": list(told.interval), "p": told.p}


def _of_common_seeds(
    first: Sequence[Cell], second: Sequence[Cell], of: Mapping[Cell, T]
) -> tuple[list, list[T], list[T]]:
    """The seeds that both rows have, and what is known of the cells of each row with these."""
    common = sorted({cell.seed for cell in first} & {cell.seed for cell in second})
    ours, theirs = ([of[cell] for seed in common for cell in row if cell.seed == seed] for row in (first, second))
    return common, ours, theirs


def verdict(pair: Mapping) -> str:
    """What may be said of a difference: ``noise of images``, ``noise of seeds``, ``noise, votes against means``,
    ``difference``, or with runs of one seed alone ``difference on one seed``; ``untested`` where nothing could be
    tested over images.

    The seeds' test is not corrected for the number of pairs: it only ever takes a claim back.
    """
    by_images, by_seeds = pair.get("p_holm"), pair["seed_p"]
    if by_images is not None and by_images >= LEVEL:
        return "noise of images"
    if by_seeds is not None and by_seeds >= LEVEL:
        return "noise of seeds"
    if by_images is None:
        return "untested"
    if "votes" in pair and (pair["votes"][1] > pair["votes"][0]) != pair["second_is_better"]:
        return "noise, votes against means"
    return "difference" if by_seeds is not None else "difference on one seed"
