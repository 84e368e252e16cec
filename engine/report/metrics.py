"""Reading the log of figures that a run appends to while it trains: one JSON object a line."""

import json
import math
from pathlib import Path

from engine.task import TaskInfo

METRICS_FILE = "metrics.jsonl"
VALIDATION = "validation"  # the group of an evaluation's losses beside those of its figures; the total is total_loss


def read_metrics(path):
    """Read a metrics.jsonl file into a list of dicts in the order of their "iteration".

    Records of one iteration are merged key by key and the last one wins, so a resumed run, which repeats the
    iterations since its checkpoint, gives each iteration once; an evaluation logged on a line of its own
    joins the training record of its iteration. Lines torn by a kill, records without an iteration and
    everything that is not a JSON object are passed over. Values are as logged: NaN and infinity stay in.
    Raises OSError if `path` cannot be read.
    """
    rows = {}
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        record = _parse(line)
        iteration = record.get("iteration") if record else None
        if _is_number(iteration) and math.isfinite(iteration):
            rows.setdefault(int(iteration), {}).update(record)
    return [rows[iteration] for iteration in sorted(rows)]


def series(rows, key):
    """The finite values of `key` in `rows` as two lists: iterations and values. Empty if it was never
    logged."""
    points = [(row["iteration"], row[key]) for row in rows if _is_number(row.get(key)) and math.isfinite(row[key])]
    return [x for x, _ in points], [y for _, y in points]


def evaluations(rows, task: TaskInfo):
    """The main figures of the evaluations in `rows`, as a list of (group, figure, iterations, values): those that
    were logged, the most important first."""
    keys = [(group, figure) for group in task.figures for figure in task.main_figures]
    found = [(group, figure, *series(rows, f"{group}/{figure}")) for group, figure in keys]
    return [(group, figure, x, y) for group, figure, x, y in found if x]


def loss_names(rows):
    """The losses of the training found in `rows`: "total_loss" first, then its parts in the order of their first
    appearance. Those of evaluations stand under VALIDATION."""
    names = dict.fromkeys(key for row in rows for key, value in row.items() if _is_number(value) and _is_loss(key))
    return sorted(names, key=lambda name: name != "total_loss")


def _is_loss(key):
    group, _, name = key.rpartition("/")
    return group != VALIDATION and (name.startswith("loss") or name.endswith("loss"))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _parse(line):
    """The JSON object in `line`, or None. A killed run leaves half a line, and the resumed one writes on
    behind it: the whole object at the end of such a line is found too."""
    start = line.find("{")
    while start >= 0:
        try:
            record = json.loads(line[start:])
            return record if isinstance(record, dict) else None
        except ValueError:
            start = line.find("{", start + 1)
    return None
