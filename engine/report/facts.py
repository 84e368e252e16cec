"""What a run's files say about it, as plain names and values."""

from __future__ import annotations

import numpy as np

from engine.report.metrics import VALIDATION, evaluations, series
from engine.report.page import duration, number
from engine.report.run_reader import Run, find, flat
from se_backbones import find_spec


def describe(run: Run) -> str:
    """What was trained on what, in a line; the folder's name if the files do not tell."""
    network = run.setting("MODEL.BACKBONE.ARCHITECTURE") or run.result.get("backbone")
    title = " with ".join(str(part) for part in (run.facts.method, network) if part) or run.name
    data = _evaluation_data(run) or run.facts.training_data
    return f"{title} on {data}" if data else title


def headline(run: Run) -> list[tuple[str, str]]:
    """The figures to see first: (figure, what it is)."""
    task, entries = run.task, []
    for kind, group in run.figures.items():
        suffix = f" ({task.figures[kind].lower()})" if len(run.figures) > 1 else ""
        shown = [name for name in task.main_figures if name in group]
        entries += [(number(_float(group[name])), task.label(name) + suffix) for name in shown]
    if not entries:
        logged = evaluations(run.rows, task)
        entries += [(number(float(y[-1])), f"{task.label(name)} at iteration {x[-1]}") for _, name, x, y in logged]
    losses = series(run.rows, "total_loss")[1]
    if not entries and losses:
        entries.append((f"{losses[-1]:.3f}", "last loss"))
    iteration = run.result.get("iteration") or (run.rows[-1]["iteration"] if run.rows else None)
    if isinstance(iteration, int):
        entries.append((f"{iteration:,}", "iterations"))
    if seconds := _seconds(run):
        entries.append((duration(seconds), "training time"))
    return entries


def training_facts(run: Run) -> list[tuple[str, object]]:
    """What was trained, on what and how: (name, value), the value None or empty where the files do not
    tell."""
    by_kind = [find(run.result, f"per_category.{kind}") for kind in run.figures]
    names = next((list(values) for values in by_kind if isinstance(values, dict)), [])
    size = _float(run.result.get("parameters"))
    steps, loss = run.setting("SOLVER.MAX_ITER"), _float(find(run.result, f"{VALIDATION}.total_loss"))
    shown = ", ".join(map(str, names[:12])) + (", …" if len(names) > 12 else "")
    return [
        ("Backbone", run.setting("MODEL.BACKBONE.ARCHITECTURE") or run.result.get("backbone")),
        ("Squeeze-and-Excitation", _se(run)),
        ("Parameters", f"{size / 1e6:.1f} million" if size else None),
        ("Evaluated weights", run.weights)
        if run.is_evaluation
        else ("Starting weights", run.setting("MODEL.WEIGHTS") or ("random" if run.config else None)),
        ("Training data", run.facts.training_data),
        ("Evaluation data", _evaluation_data(run)),
        ("Validation loss", None if loss is None else number(loss, 4)),
        ("Images evaluated", run.result.get("images")),
        ("Images that could not be read", run.result.get("broken") or None),
        ("Classes", f"{len(names)}: {shown}" if names else None),
        ("Image size", run.facts.image_size),
        ("Batch size", run.setting("SOLVER.IMS_PER_BATCH")),
        ("Learning rate", run.setting("SOLVER.BASE_LR")),
        ("Epochs planned", None if steps else run.setting("SOLVER.EPOCHS")),
        ("Iterations planned", number(steps) if steps else None),
        ("Precision", run.setting("SOLVER.PRECISION")),
        ("Seed", run.setting("SEED")),
    ]


def origin_facts(run: Run) -> list[tuple[str, object]]:
    """What made it: time, hardware, versions, command; as `training_facts`."""
    speed = series(run.rows, "images_per_second")[1]
    return [
        ("Training time", duration(seconds) if (seconds := _seconds(run)) else None),
        ("Ended", run.result.get("ended")),
        ("Best evaluation", _best(run)),
        ("Speed", f"{np.median(speed):.3g} images/s (median)" if speed else None),
        ("Hardware", flat(run.result.get("hardware"))),
        ("Versions", flat(run.result.get("versions"))),
        ("Evaluator", run.result.get("evaluator")),
        ("Command", flat(run.result.get("command"))),
        ("Notes", flat(run.result.get("notes"))),
    ]


def _best(run: Run) -> str | None:
    """Which evaluation was the best one, whose weights ``model_best.pth`` holds."""
    value, step, figure = (find(run.result, f"best.{key}") for key in ("value", "iteration", "figure"))
    if not isinstance(step, int) or not isinstance(figure, str):
        return None
    name = run.task.label(figure.rsplit("/", 1)[-1])
    return f"{name} {number(_float(value))} after step {step:,}: model_best.pth"


def _se(run: Run) -> str | None:
    name = str(run.setting("MODEL.BACKBONE.ARCHITECTURE") or "")
    if not name:
        return None
    settings = run.setting("MODEL.SE") or {}
    try:
        carries_se = find_spec(name).se is not None or bool(settings.get("INSERT"))
    except ValueError:
        return None  # no network of this version: what it had cannot be told
    if not carries_se:
        return "none, the plain network"
    order = ("REDUCTION", "PLACEMENT", "STAGES", "SQUEEZE", "GATE", "BIAS", "INIT", "WITHOUT", "HIDDEN")
    parts = [f"{key.lower()} {flat(settings[key])}" for key in order if settings.get(key) not in (None, [])]
    return ", ".join(parts) or "yes"


def _evaluation_data(run: Run) -> str:
    """By the config; where there is none to be read, by the result."""
    return run.facts.evaluation_data or ("" if run.config else flat(run.result.get("dataset")))


def _seconds(run: Run) -> float | None:
    """Training time: the result's own account, else the sum of the logged steps' times."""
    if seconds := _float(run.result.get("training_seconds")):
        return seconds
    iterations, times = series(run.rows, "time")
    if not times:
        return None
    # A line gives one step's time (or a median of steps) and stands for all the steps since the line before.
    return float(np.dot(np.diff([0, *iterations]), times))


def _float(value):
    return float(value) if isinstance(value, int | float) else None
