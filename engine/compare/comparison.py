"""What a comparison of runs says, as values: figures, differences and their tests, settings, images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.compare.answers import Answers, PairTest, Panel
from engine.compare.runs import Found, main_figure, read_runs
from engine.errors import UserError
from engine.report.page import duration, is_number, number
from engine.report.run_reader import Run, find, flat
from engine.statistics import LEVEL, holm
from engine.task import TaskInfo

MAX_CLASSES = 15  # whose figures differ most
NOT_SETTINGS = ("OUTPUT_DIR", "MODEL.DEVICE", "DATA.CACHE")  # where a run was made, not what it is
ROUNDING = 0.01  # points by which a figure may differ from what the answers give

Table = list[list[str]]  # the first row is its head


@dataclass
class Pair:
    """A run against the first one that has figures.

    Attributes:
        first, second: the names.
        difference: the second's main figure less the first's, in points.
        test: over the images; None where there is none, and ``untested`` says why.
        p: the test's, corrected for the number of pairs (Holm).
    """

    first: str
    second: str
    difference: float
    test: PairTest | None = None
    p: float | None = None
    untested: str = ""

    @property
    def verdict(self) -> str:
        """What may be said of the difference, a sentence."""
        if self.test is None:
            return f"Not tested over the images: {self.untested}."
        found = f"{self.test.words.format(first=self.first, second=self.second)}; p = {_p(self.p)}"
        if self.p >= LEVEL:
            return f"Within the noise of the images: {found}."
        return f"Beyond the noise of the images: {found}. What other seeds would give is not known."


@dataclass
class Case:
    """An image, what is true of it, and what each run says (by name)."""

    image: str
    truth: Panel
    said: Mapping[str, Panel]


@dataclass
class Comparison:
    """All that a page shows.

    Attributes:
        runs: by name.
        problems: what is not compared and why, a sentence each.
        figures, classes, settings: tables; the first row their head; empty where there is nothing to show.
        pairs: every run with figures against the first of them.
        cases: the images where the runs differ most; ``differing`` of ``images`` in all do; 0 where no two
            runs were asked about the same ones.
    """

    task: TaskInfo
    runs: Mapping[str, Run]
    problems: list[str]
    figures: Table
    classes: Table
    settings: Table
    pairs: list[Pair]
    cases: list[Case]
    differing: int = 0
    images: int = 0


def compare(found: Found, task: TaskInfo, open_answers: Callable[[Run], Answers], images: int = 12) -> Comparison:
    """Compares runs of one task.

    Args:
        open_answers: a finished run → its answers. Raises UserError where they are not there.
        images: how many to show at most.
    """
    runs, problems = read_runs(found, task)
    problems = [*found.problems, *problems]
    finished = {name: run for name, run in runs.items() if main_figure(run) is not None}
    answers, why = _answers(finished, open_answers)
    pairs = _pairs(finished, answers, why)
    alike = _alike(answers)
    differing = alike[0][1].differing([one for _, one in alike[1:]]) if len(alike) > 1 else []
    cases = _cases(differing[:images], dict(alike), problems)
    return Comparison(
        task,
        runs,
        [*problems, *(f"{name}: {reason}" for name, reason in why.items())],
        _figures(finished),
        _classes(finished),
        settings(runs),
        pairs,
        cases,
        len(differing),
        len(alike[0][1].images) if len(alike) > 1 else 0,
    )


def _answers(runs: Mapping[str, Run], open_answers: Callable[[Run], Answers]) -> tuple[dict[str, Answers], dict]:
    """Of each run, or why there are none."""
    answers, why = {}, {}
    for name, run in runs.items():
        try:
            found = open_answers(run)
        except UserError as error:
            why[name] = f"its answers cannot be compared image by image: {error}"
            continue
        figure = main_figure(run)
        if found.main is None or abs(found.main - figure) > ROUNDING:
            why[name] = (
                f"its answers are not those of its result.json, or the data have changed since: they give "
                f"{task_figure(run)} {number(found.main, 2)}, and it says {number(figure, 2)}"
            )
        else:
            answers[name] = found
    return answers, why


def task_figure(run: Run) -> str:
    """What the main figure is called."""
    return run.task.label(run.task.main_figures[0])


def _pairs(runs: Mapping[str, Run], answers: Mapping[str, Answers], why: Mapping[str, str]) -> list[Pair]:
    names = list(runs)
    pairs = [Pair(names[0], name, main_figure(runs[name]) - main_figure(runs[names[0]])) for name in names[1:]]
    for pair in pairs:
        missing = [name for name in (pair.first, pair.second) if name in why]
        if missing:
            pair.untested = f"see what is said of {' and '.join(missing)}"
            continue
        first, second = answers[pair.first], answers[pair.second]
        pair.untested = second.unlike(first)
        if not pair.untested:
            pair.test = first.test(second)
    tested = [pair for pair in pairs if pair.test is not None]
    for pair, corrected in zip(tested, holm([pair.test.p for pair in tested]), strict=True):
        pair.p = corrected
    return pairs


def _alike(answers: Mapping[str, Answers]) -> list[tuple[str, Answers]]:
    """The runs that were asked about the same images as the first one."""
    items = list(answers.items())
    return [(name, one) for name, one in items if not one.unlike(items[0][1])]


def _cases(images: Sequence[str], answers: Mapping[str, Answers], problems: list[str]) -> list[Case]:
    """Where images cannot be read, that is among the problems, once."""
    cases: list[Case] = []
    for image in images:
        try:
            truth = next(iter(answers.values())).truth(image)
            cases.append(Case(image, truth, {name: one.said(image) for name, one in answers.items()}))
        except UserError as error:
            problems.append(f"the images are not shown: {error}")
            break
    return cases


def _figures(runs: Mapping[str, Run]) -> Table:
    if not runs:
        return []
    task, first = next(iter(runs.values())).task, ["", *runs]
    rows = []
    for group, title in task.figures.items():
        names = dict.fromkeys(name for run in runs.values() for name in run.figures.get(group, {}))
        several = sum(any(one in run.figures for run in runs.values()) for one in task.figures) > 1
        for name in names:
            values = [run.figures.get(group, {}).get(name) for run in runs.values()]
            if all(map(is_number, values)):
                label = task.label(name) + (f" ({title.lower()})" if several else "")
                rows.append([label, *(number(None if v is None else float(v), 2) for v in values)])
    for label, key, words in (
        ("images evaluated", "images", number),
        ("parameters", "parameters", number),
        ("steps", "iteration", number),
        ("training time", "training_seconds", lambda value: duration(value) if value else "–"),
        ("images/s in evaluation", "images_per_second", number),
    ):
        values = [run.result.get(key) for run in runs.values()]
        if any(value is not None for value in values) and all(map(is_number, values)):
            rows.append([label, *map(words, values)])
    return [first, *rows]


def _classes(runs: Mapping[str, Run]) -> Table:
    """The classes whose figures differ most, with the widest difference last."""
    if len(runs) < 2:
        return []
    group = next(iter(next(iter(runs.values())).task.figures))
    by_run = [find(run.result, f"per_category.{group}") for run in runs.values()]
    if not all(isinstance(values, dict) for values in by_run):
        return []
    rows = []
    for name in by_run[0]:
        values = [values.get(name) for values in by_run]
        if all(number(value) != "–" for value in values):
            rows.append((max(values) - min(values), [name, *(number(float(value)) for value in values)]))
    rows.sort(key=lambda row: -row[0])
    widest = [[*cells, number(float(spread))] for spread, cells in rows[:MAX_CLASSES] if spread > 0]
    return [["", *runs, "apart"], *widest] if widest else []


def settings(runs: Mapping[str, Run]) -> Table:
    """The keys of the configs in which the runs differ; of those that have a config."""
    configs = {name: _flat_keys(run.config) for name, run in runs.items() if run.config}
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    rows = [[key, *(config.get(key, "–") for config in configs.values())] for key in keys if key not in NOT_SETTINGS]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return [["", *configs], *rows] if rows else []


def _flat_keys(config: Mapping, prefix: str = "") -> dict[str, str]:
    found = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat_keys(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = (flat(value) or '""') if isinstance(value, list | tuple | str) else str(value)
    return found


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.0001 else "below 0.0001"
