"""One HTML file that tells a person what a training run was and what came of it."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from engine.report.facts import describe, headline, origin_facts, training_facts
from engine.report.mistakes import FOLDER, LIST, PICTURES, read_mistakes
from engine.report.page import Picture, bars, is_number, number, read_picture, render, table
from engine.report.plots import write_training_plots
from engine.report.run_reader import Run, find, read_run
from engine.task import TaskInfo
from se_backbones.files import write_atomically

# base64 included: a page that can be mailed
MAX_CURVE_BYTES, MAX_PICTURE_BYTES, MAX_MISTAKE_BYTES = 1_300_000, 2_400_000, 900_000
MAX_PICTURES = 24
MAX_BARS = 48
MISTAKE_SIZE = (320, 70)  # pixels of the longer side, and JPEG quality
COLUMN_ROWS = 10  # of a long table that is cut in two
# Longest side in pixels and JPEG quality, tried in turn until the pictures fit.
PICTURE_SIZES = ((1200, 85), (1000, 80), (800, 75), (640, 70), (480, 65))
PLOT_ORDER = ("evaluation", "losses", "learning_rate", "throughput")


def write_summary(run_dir, task: TaskInfo) -> Path:
    """Write `run_dir`/summary.html from the files of a run of a task, and draw its curves into `run_dir`/plots first.

    The page loads nothing from elsewhere, has its pictures inside, and stays below about 5 MB. Any file of
    the run may be missing or damaged: the page then says so. Returns the page's path. Raises UserError if
    `run_dir` is no folder.
    """
    run = read_run(run_dir, task)
    if run.rows:
        write_training_plots(run.folder, task)
    plots = {plot.stem: plot for plot in _read_pictures(run, _plots(run), 1600, 85)}
    confusion, evaluation = plots.pop("confusion", None), plots.pop("evaluation", None) if run.figures else None
    pictures = _pictures(run)
    page = render(
        "summary.html.j2",
        title=describe(run),
        headline=headline(run),
        results=[_group(run, name) for name in run.figures],
        evaluation=evaluation,
        mistakes=_mistakes(run),
        worst=_worst(run),
        confusion=confusion,
        pictures=pictures,
        # Ground truth beside prediction makes a picture two wide, and two such side by side are too small to read.
        wide=pictures and np.median([picture.width / picture.height for picture in pictures]) > 1.8,
        curves=_curves(run, plots.values()),
        plot_order=PLOT_ORDER,
        facts=_facts(run),
        commands=commands(run),
        documents={
            "Settings (config.yaml)": run.config_text,
            "Everything in result.json": json.dumps(run.result, indent=2, ensure_ascii=False) if run.result else "",
        },
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        run=run,
    )
    return write_atomically(run.folder / "summary.html", page)


def _group(run: Run, name: str) -> dict:
    """A group of an evaluation's figures: "figures" (label, meaning, value); all "classes", the "best" and the
    "weakest" of many, as bars, and how many are "without" a figure; "published" figures, a table, and their "sources".
    """
    task, own = run.task, run.figures[name]
    figures = [
        (task.label(figure), task.figure_meanings.get(figure, ""), number(None if value is None else float(value), 2))
        for figure, value in own.items()
        if is_number(value)
    ]
    values = find(run.result, f"per_category.{name}")
    values = values if isinstance(values, dict) else {}
    known = sorted((entry for entry in values.items() if number(entry[1]) != "–"), key=lambda entry: -entry[1])
    without = [(label, None) for label, value in values.items() if number(value) == "–"]
    few = MAX_BARS // 4 if len(values) > MAX_BARS else 0
    published = _records(run, "published") if task.published_figures else []
    columns = (*task.published_figures, "crops", "trained_on")
    heads = ("Model", *(task.label(name).replace("_", " ") for name in columns))
    rows = [[row.get(name, "") for name in ("model", *columns)] for row in published]
    this = ["This run", *(own.get(name, run.result.get(name, "")) for name in columns)]
    return {
        "title": task.figures[name],
        "figures": figures,
        "classes": bars(known + without),
        "best": bars(known[:few]),
        "weakest": bars(known[few:][-few:]) if few else [],
        "without": len(without),
        "published": table(heads, [this, *rows]) if published else None,
        "sources": list(dict.fromkeys(str(row["source"]) for row in published if row.get("source"))),
    }


def _mistakes(run: Run) -> list[dict]:
    """The pairs of classes that are taken for each other."""
    names = ("truth", "predicted", "count", "share")
    rows = [[row.get(name, "") for name in names] for row in _records(run, "confused_pairs")]
    parts = [rows[first : first + COLUMN_ROWS] for first in range(0, len(rows), COLUMN_ROWS)]
    return [table(("Truth", "taken for", "times", "percent"), part, digits=1) for part in parts]


def _worst(run: Run) -> dict | None:
    """Pictures of the worst mistakes, class by class, with what they are, how many others there are, and where the list
    of them is; None where there is none."""
    folder = run.folder / FOLDER
    found = read_mistakes(folder)
    if not found.get("found"):
        return None
    pictures, left = [], MAX_MISTAKE_BYTES
    for entry in (entry for entry in found["mistakes"] if entry.get("picture")):
        path = folder / PICTURES / Path(str(entry["picture"])).name
        for picture in _read_pictures(run, [path], *MISTAKE_SIZE):
            left -= len(picture.uri)
            pictures.append((picture, str(entry.get("group", "")), _said(entry)))
        if left < 0:
            pictures.pop()
            break
    return {"pictures": pictures, "others": found["found"] - len(pictures), "list": f"{FOLDER}/{LIST}"}


def _said(entry: dict) -> str:
    """What a mistake is: "dog 0.93 · wrong class: cat"."""
    score, kind, truth = entry.get("score"), entry.get("kind", ""), entry.get("truth")
    predicted = entry.get("predicted") or ""
    said = f"{predicted} {number(score, 2)}" if predicted and is_number(score) else str(predicted)
    return " · ".join(part for part in (said, f"{kind}: {truth}" if truth else str(kind)) if part)


def _pictures(run: Run) -> list[Picture]:
    """The first pictures of the run's predictions, as large as the page has room for."""
    before = list(run.missing)
    for max_side, quality in PICTURE_SIZES:
        run.missing[:] = before
        pictures = _read_pictures(run, run.pictures[:MAX_PICTURES], max_side, quality)
        if sum(len(picture.uri) for picture in pictures) <= MAX_PICTURE_BYTES:
            break
    while sum(len(picture.uri) for picture in pictures) > MAX_PICTURE_BYTES:
        pictures.pop()
    return pictures


def _plots(run: Run) -> list[Path]:
    rank = {name: index for index, name in enumerate(PLOT_ORDER)}
    paths = (run.folder / "plots").glob("[!.]*.png")
    return sorted(paths, key=lambda path: (rank.get(path.stem, len(rank)), path.name))


def _curves(run: Run, plots: Iterable[Picture]) -> list[Picture]:
    curves, size = [], 0
    for plot in plots:
        size += len(plot.uri)
        if size > MAX_CURVE_BYTES:
            run.missing.append(f"plots/{plot.name}: left out here, as the page would become too large")
        else:
            curves.append(plot)
    return curves


def _facts(run: Run) -> dict[str, list[tuple[str, object]]]:
    groups = {"What was trained": training_facts(run), "How it was made": origin_facts(run)}
    told = {
        title: [(name, value) for name, value in facts if value not in (None, "", [], {})]
        for title, facts in groups.items()
    }
    return {title: facts for title, facts in told.items() if facts}


def commands(run: Run) -> dict[str, str]:
    """What can be done with the run next → the command."""
    train, predict = (f"python {script}" for script in (run.task.train_command, run.task.predict_command))
    config = shlex.quote(str(run.folder / "config.yaml"))
    folder = shlex.quote(str(run.folder.parent if run.is_evaluation else run.folder))
    found = {}
    if run.weights:
        weights = shlex.quote(run.weights)
        evaluate = f"{train} --config {config} --eval-only MODEL.WEIGHTS {weights} OUTPUT_DIR {folder}"
        found["Predict on pictures, folders or videos"] = f"{predict} --weights {weights} PICTURES --output OUTPUT"
        found["Evaluate again, into its folder evaluation"] = evaluate
    if not run.is_evaluation and (run.weights or run.config):
        found["Go on from the newest checkpoint"] = f"{train} --config {config} --resume OUTPUT_DIR {folder}"
    return found


def _read_pictures(run: Run, paths: Iterable[Path], max_side: int, quality: int) -> list[Picture]:
    """Those that can be read; the others are noted as missing."""
    pictures = []
    for path in paths:
        try:
            pictures.append(read_picture(path, max_side, quality))
        except Exception as error:  # a damaged picture makes Pillow's readers raise almost anything
            run.missing.append(f"{path.parent.name}/{path.name}: cannot be read ({error})")
    return pictures


def _records(run: Run, key: str) -> list[dict]:
    """A list of objects in result.json; empty where there is none."""
    rows = run.result.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
