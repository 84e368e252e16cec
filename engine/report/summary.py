"""One HTML file that tells a person what a training run was and what came of it."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.report import page as html
from engine.report.facts import KINDS, LABELS, describe, headline, origin_facts, training_facts
from engine.report.plots import write_training_plots
from engine.report.run_reader import Run, find, read_run
from se_backbones.files import write_atomically

CURVE_BYTES, PICTURE_BYTES = 1_300_000, 3_300_000  # base64 included: a page that can be mailed
MOST_PICTURES = 24
MOST_BARS = 48
COLUMN_ROWS = 10  # of a long table that is cut in two
# Longest side in pixels and JPEG quality, tried in turn until the pictures fit.
PICTURE_SIZES = ((1200, 85), (1000, 80), (800, 75), (640, 70), (480, 65))

# What a figure means: COCO's twelve (cocodataset.org/#detection-eval) and a scene classifier's.
MEANINGS = {
    "AP": "IoU 0.50 to 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, below 32² pixels",
    "APm": "medium objects",
    "APl": "large objects, above 96² pixels",
    "AR1": "recall, 1 detection an image",
    "AR10": "recall, 10 detections an image",
    "AR100": "recall, 100 detections an image",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
    "top1": "the first guess is right",
    "top5": "the truth is among five guesses",
    "top1_error": "100 less top-1 accuracy",
    "top5_error": "100 less top-5 accuracy",
    "mean_class_top1": "every class with the same weight",
    "indoor_outdoor": "indoor or outdoor told right",
    "ece": "expected difference of confidence and accuracy, 15 bins",
}
PLOT_ORDER = ("evaluation", "losses", "learning_rate", "throughput")
CONFUSION = "confusion"  # the plot that has a section of its own


def write_summary(run_dir) -> Path:
    """Write `run_dir`/summary.html from the files of the run, and draw its curves into `run_dir`/plots first.

    The page loads nothing from elsewhere, has its pictures inside, and stays below about 5 MB. Any file of
    the run may be missing or damaged: the page then says so. Returns the page's path. Raises UserError if
    `run_dir` is no folder.
    """
    run = read_run(run_dir)
    if run.rows:
        write_training_plots(run.folder)
    title = describe(run)
    kind = {"detection": "Object detection", "places365": "Scene classification"}.get(run.task, "Training run")
    sections = [
        f'<p class="eyebrow">{kind} · {html.escape(run.name)}</p><h1>{html.escape(title)}</h1>',
        html.tiles(headline(run)),
        *_results(run),
        *_confusion(run),
        *_pictures(run),
        *_curves(run),
        *_about(run),
        *_commands(run),
        *_documents(run),
    ]
    sections.insert(2, _notes(run))  # made last, as reading the pictures may have added to what is missing
    written = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    sections.append(f"<footer>Written {written} from the files in {html.escape(run.folder)}</footer>")
    return write_atomically(run.folder / "summary.html", html.page(f"{title} · {run.name}", sections))


def _results(run: Run) -> Iterator[str]:
    if not run.figures:
        return
    tables, categories, most = [], [], 0
    for kind, group in run.figures.items():
        rows = [
            (LABELS.get(name, name), MEANINGS.get(name, ""), value)
            for name, value in group.items()
            if _is_figure(value)
        ]
        tables.append(f'<div class="card"><h3>{KINDS[kind]}, percent</h3>{html.figures(rows)}</div>')
        tables.extend(_published(run, group) if kind == "places365" else ())
        values = find(run.result, f"per_category.{kind}")
        if isinstance(values, dict) and values:
            categories.append(_categories(kind, values))
            most = max(most, len(values))
    # The evaluation's curve fills the shorter of the two columns.
    curve, _ = _inline([path for path in _plots(run) if path.stem == PLOT_ORDER[0]], 1600, 85)
    (tables if most > 10 else categories).extend(html.figure(uri, path.stem, "curve") for path, uri, _ in curve)
    stacks = "".join(f'<div class="stack">{"".join(cards)}</div>' for cards in (tables, categories) if cards)
    yield f'<h2>Results</h2><div class="columns">{stacks}</div>'


def _published(run: Run, own: dict) -> Iterator[str]:
    """A card of the figures that others published for the same data."""
    names = ("top1_error", "top5_error", "crops", "trained_on")
    rows = [[row.get(name, "") for name in ("model", *names)] for row in _records(run, "published")]
    if rows:
        this = ["This run", own.get("top1_error"), own.get("top5_error"), run.result.get("crops"), ""]
        heads = ("Model", LABELS["top1_error"], LABELS["top5_error"], "crops", "trained on")
        sources = dict.fromkeys(str(row["source"]) for row in _records(run, "published") if row.get("source"))
        note = f'<p class="note">From {html.escape("; ".join(sources))}.</p>' if sources else ""
        table = html.table(heads, [this, *rows])
        yield f'<div class="card"><h3>Beside published figures, percent</h3>{table}{note}</div>'


def _confusion(run: Run) -> Iterator[str]:
    """The classes that are taken for each other: the pairs, and the picture."""
    names = ("truth", "predicted", "count", "share")
    rows = [[row.get(name, "") for name in names] for row in _records(run, "confused_pairs")]
    cards = []
    for first in range(0, len(rows), COLUMN_ROWS):
        table = html.table(("Truth", "taken for", "images", "percent"), rows[first : first + COLUMN_ROWS], digits=1)
        cards.append(f'<div class="card"><h3>{"The next" if first else "Most frequent mistakes"}</h3>{table}</div>')
    picture, skipped = _inline([path for path in _plots(run) if path.stem == CONFUSION], 1600, 85)
    run.missing.extend(skipped)
    cards.extend(html.figure(uri, "confusion of the classes", "curve full") for _, uri, _ in picture)
    if cards:
        yield f'<h2>Confusion</h2><div class="columns">{"".join(cards)}</div>'


def _categories(kind: str, values: dict) -> str:
    """A card of bars; of many categories the best and the weakest, and all on a click."""
    title = KINDS[kind]
    known = sorted(((name, value) for name, value in values.items() if html.number(value) != "–"), key=lambda i: -i[1])
    without = [(name, None) for name, value in values.items() if html.number(value) == "–"]
    absent = "no image of it" if kind == "places365" else "no such object"
    note = f'<p class="muted">–: {absent} in the data ({len(without)})</p>' if without else ""
    everything = html.bars(known + without) + note
    if len(values) <= MOST_BARS:
        return f'<div class="card"><h3>{title} by category, percent</h3>{everything}</div>'
    few = MOST_BARS // 4
    return (
        f'<div class="card"><h3>{title} by category, percent: the best</h3>{html.bars(known[:few])}'
        f'<h3 class="next">the weakest</h3>{html.bars(known[few:][-few:])}'
        f"<details><summary>All {len(values)} categories</summary><div>{everything}</div></details></div>"
    )


def _pictures(run: Run) -> Iterator[str]:
    chosen = run.pictures[:MOST_PICTURES]
    inlined, skipped = [], []
    for longest, quality in PICTURE_SIZES:
        inlined, skipped = _inline(chosen, longest, quality)
        if sum(len(uri) for _, uri, _ in inlined) <= PICTURE_BYTES:
            break
    while sum(len(uri) for _, uri, _ in inlined) > PICTURE_BYTES:
        inlined.pop()
    run.missing.extend(skipped)
    if inlined:
        # Ground truth beside prediction makes a picture two wide, and two such side by side are too small to
        # read.
        wide = " wide" if np.median([size[0] / size[1] for *_, size in inlined]) > 1.8 else ""
        cards = "".join(html.figure(uri, path.name) for path, uri, _ in inlined)
        more = (
            f' <span class="muted">{len(inlined)} of {len(run.pictures)}</span>' if run.pictures[len(inlined) :] else ""
        )
        yield f'<h2>Predictions{more}</h2><div class="pictures{wide}">{cards}</div>'


def _plots(run: Run) -> list[Path]:
    rank = {name: index for index, name in enumerate(PLOT_ORDER)}
    paths = (run.folder / "plots").glob("[!.]*.png")
    return sorted(paths, key=lambda path: (rank.get(path.stem, len(rank)), path.name))


def _curves(run: Run) -> Iterator[str]:
    shown_above = {CONFUSION, PLOT_ORDER[0] if run.figures else None}
    inlined, skipped = _inline([path for path in _plots(run) if path.stem not in shown_above], 1600, 85)
    run.missing.extend(skipped)
    cards, size = [], 0
    for path, uri, (width, height) in inlined:
        size += len(uri)
        if size > CURVE_BYTES:
            run.missing.append(f"plots/{path.name}: left out here, as the page would become too large")
            continue
        # Figures of many panels need the whole width.
        kind = "curve full" if path.stem not in PLOT_ORDER and width * height > 1e6 else "curve"
        cards.append(html.figure(uri, path.stem.replace("_", " "), kind))
    if cards:
        yield f'<h2>Curves</h2><div class="columns">{"".join(cards)}</div>'


def _about(run: Run) -> Iterator[str]:
    cards = [
        ("What was trained", html.facts(training_facts(run))),
        ("How it was made", html.facts(origin_facts(run))),
    ]
    cards = [f'<div class="card"><h3>{title}</h3>{table}</div>' for title, table in cards if table]
    if cards:
        yield f'<h2>About this run</h2><div class="columns">{"".join(cards)}</div>'


def _commands(run: Run) -> Iterator[str]:
    if not run.task:
        return
    train, predict = {
        "detection": ("tools/train_net.py", "tools/predict.py"),
        "places365": ("tools/train_places365.py", "tools/predict_scene.py"),
    }[run.task]
    config = shlex.quote(str(run.folder / "config.yaml"))
    folder = shlex.quote(str(run.folder.parent if run.is_evaluation else run.folder))
    steps = []
    if run.weights:
        weights = shlex.quote(run.weights)
        steps = [
            (
                "Predict on pictures, folders or videos",
                f"python {predict} --weights {weights} PICTURES --output OUTPUT",
            ),
            (
                "Evaluate again, into its folder evaluation",
                f"python {train} --config {config} --eval-only MODEL.WEIGHTS {weights} OUTPUT_DIR {folder}",
            ),
        ]
    if not run.is_evaluation:
        resume = f"python {train} --config {config} --resume OUTPUT_DIR {folder}"
        steps.append(("Go on from the newest checkpoint", resume))
    blocks = [
        f'<div class="step"><p>{html.escape(what)}</p><pre><code>{html.escape(command)}</code></pre></div>'
        for what, command in steps
    ]
    yield f'<h2>Use this run</h2><div class="card">{"".join(blocks)}</div>'


def _documents(run: Run) -> Iterator[str]:
    if run.config_text:
        yield html.details("Settings (config.yaml)", f"<pre>{html.escape(run.config_text)}</pre>")
    if run.result:
        text = json.dumps(run.result, indent=2, ensure_ascii=False)
        yield html.details("Everything in result.json", f"<pre>{html.escape(text)}</pre>")


def _notes(run: Run) -> str:
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in run.missing)
    missing = f"<p>Not in this run's folder, or not readable:</p><ul>{notes}</ul>" if notes else ""
    listings = ", ".join(path.name for path in run.annotation_problems)
    problems = f"<p>The annotations had problems: see {html.escape(listings)}.</p>" if listings else ""
    broken = f"<p>Some images could not be read: see {run.broken_files.name}.</p>" if run.broken_files else ""
    return f'<div class="card warn">{problems}{broken}{missing}</div>' if problems or broken or missing else ""


def _inline(paths, longest: int, quality: int):
    """([(path, data URI, (width, height))], [what could not be read])."""
    inlined, skipped = [], []
    for path in paths:
        try:
            inlined.append((path, *html.inline_image(path, longest, quality)))
        except Exception as error:  # a damaged picture makes Pillow's readers raise almost anything
            skipped.append(f"{path.parent.name}/{path.name}: cannot be read ({error})")
    return inlined, skipped


def _records(run: Run, key: str) -> list[dict]:
    """A list of objects in result.json; empty where there is none."""
    rows = run.result.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _is_figure(value) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
