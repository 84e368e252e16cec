"""What a run's files say about it, as plain names and values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.report.metrics import EVALUATION_FIGURES, series
from engine.report.page import duration, number
from engine.report.run_reader import Run, find

KINDS = {"bbox": "Box AP", "segm": "Mask AP", "keypoints": "Keypoint AP", "places365": "Scene accuracy"}
LABELS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "top1_error": "top-1 error",
    "top5_error": "top-5 error",
    "mean_class_top1": "mean class accuracy",
    "indoor_outdoor": "indoor or outdoor",
    "ece": "calibration error",
}


def describe(run: Run) -> str:
    """What was trained on what, in a line; the folder's name if the files do not tell."""
    heads = {"GeneralizedRCNN": "Faster R-CNN", "RetinaNet": "RetinaNet"}
    head = heads.get(str(run.setting("MODEL.META_ARCHITECTURE")))
    if head == "Faster R-CNN" and run.setting("MODEL.MASK_ON"):
        head = "Mask R-CNN"
    network = run.setting("MODEL.BACKBONE.ARCHITECTURE") or run.result.get("backbone")
    title = " with ".join(str(part) for part in (head, network) if part) or run.name
    data = _dataset(run, "TEST", "VAL") or _dataset(run, "TRAIN", "TRAIN")
    return f"{title} on {data}" if data else title


def headline(run: Run) -> list[tuple[str, str]]:
    """The figures to see first: (figure, what it is)."""
    entries = []
    for kind, group in run.figures.items():
        suffix = f" ({KINDS[kind].lower()})" if len(run.figures) > 1 else ""
        shown = [name for name in EVALUATION_FIGURES[kind] if name in group]
        entries += [(number(_float(group[name])), LABELS.get(name, name) + suffix) for name in shown]
    if not entries:
        logged = [(name, *series(run.rows, f"{kind}/{name}")) for kind in KINDS for name in EVALUATION_FIGURES[kind]]
        entries += [
            (number(float(y[-1])), f"{LABELS.get(name, name)} at iteration {x[-1]}") for name, x, y in logged if x
        ]
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
    steps = run.setting("SOLVER.MAX_ITER")
    shown = ", ".join(map(str, names[:12])) + (", …" if len(names) > 12 else "")
    return [
        ("Backbone", run.setting("MODEL.BACKBONE.ARCHITECTURE") or run.result.get("backbone")),
        ("Squeeze-and-Excitation", _se(run)),
        ("Parameters", f"{size / 1e6:.1f} million" if size else None),
        ("Evaluated weights", run.weights)
        if run.is_evaluation
        else ("Starting weights", run.setting("MODEL.WEIGHTS") or ("random" if run.config else None)),
        ("Training data", _dataset(run, "TRAIN", "TRAIN")),
        ("Evaluation data", _dataset(run, "TEST", "VAL")),
        ("Images evaluated", run.result.get("images")),
        ("Images that could not be read", run.result.get("broken") or None),
        ("Classes", f"{len(names)}: {shown}" if names else None),
        ("Image size", _image_size(run)),
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
        ("Speed", f"{np.median(speed):.3g} images/s (median)" if speed else None),
        ("Hardware", _flat(run.result.get("hardware"))),
        ("Versions", _flat(run.result.get("versions"))),
        ("Evaluator", run.result.get("evaluator")),
        ("Command", _flat(run.result.get("command"))),
        ("Notes", _flat(run.result.get("notes"))),
    ]


def _se(run: Run) -> str | None:
    name = str(run.setting("MODEL.BACKBONE.ARCHITECTURE") or "")
    if not name:
        return None
    if not name.startswith("se"):
        return "none, the plain network"
    settings = run.setting("MODEL.SE") or {}
    order = ("REDUCTION", "PLACEMENT", "STAGES", "SQUEEZE", "GATE", "BIAS", "INIT")
    parts = [f"{key.lower()} {_flat(settings[key])}" for key in order if key in settings]
    return ", ".join(parts) or "yes"


def _image_size(run: Run) -> str | None:
    """How large a network sees the images: a detector's bounds, or a classifier's crops."""
    if minimum := run.setting("INPUT.MIN_SIZE_TEST"):
        return f"shorter side {minimum}, longer at most {run.setting('INPUT.MAX_SIZE_TEST')} pixels"
    train, crop, resize = (run.setting(f"INPUT.{key}") for key in ("TRAIN_SIZE", "TEST_SIZE", "TEST_RESIZE"))
    if not crop:
        return None
    crops = run.result.get("crops") or run.setting("TEST.CROPS")
    cut = f"the mean of {crops} crops of {crop}" if crops not in (None, 1) else f"its centre of {crop}"
    whole = f"shorter side {resize} pixels" if resize else "the image as it is"
    return f"training {train} pixels; evaluation {whole}, {cut}"


def _dataset(run: Run, group: str, own: str) -> str:
    """The name of the training or evaluation data as the config gives it; "" if it does not."""
    if path := run.setting(f"DATA.{own}.JSON"):
        parts = Path(str(path)).with_suffix("").parts
        parts = [part for part in parts if part not in ("annotations", "..", "/")]
        return "/".join([*parts[-2:-1], *(part.removeprefix("instances_") for part in parts[-1:])])
    if root := run.setting("DATA.ROOT"):
        split, name = run.setting(f"DATA.{own}"), Path(str(root)).name or str(root)
        if split is None:
            return name
        return f"{name}/{split}" if split else ""  # empty: no evaluation
    names = run.setting(f"DATASETS.{group}")
    names = names or (run.result.get("dataset") if group == "TEST" else "") or ""
    return names if isinstance(names, str) else _flat(names)


def _seconds(run: Run) -> float | None:
    """Training time: the result's own account, else the sum of the logged steps' times."""
    if seconds := _float(run.result.get("training_seconds")):
        return seconds
    iterations, times = series(run.rows, "time")
    if not times:
        return None
    # A line gives one step's time (or a median of steps) and stands for all the steps since the line before.
    return float(np.dot(np.diff([0, *iterations]), times))


def _flat(value) -> str:
    """Nested lists and dicts as one line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return ", ".join(_flat(item) for item in value) if isinstance(value, list | tuple) else str(value or "")


def _float(value):
    return float(value) if isinstance(value, int | float) else None
