"""The networks that this project has trained, as rows: read from the results, one a network and data set."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from classification.config import load_config as load_classification_config
from detection.acceptance import VAL_IMAGES
from detection.config import load_config as load_detection_config
from detection.task_info import DETECTION
from engine import compat  # noqa: F401  (before detectron2)
from engine.config.shipped import find_config
from engine.errors import UserError
from engine.json_files import read_json
from places365.task import CLASSIFICATION_TASKS
from studies.index import STUDIES

# The demonstrations draw their data, and name no config: command → the config, and what the set is called.
_DEMOS = {
    "demo.py": ("configs/demo.yaml", "shapes"),
    "demo_places.py": ("configs/places365_demo.yaml", "scenes"),
    "acceptance.py": ("configs/demo.yaml", "shapes"),  # its check "detectors" alone
}


@dataclass(frozen=True)
class Row:
    """A network and what it came to.

    Attributes:
        model: "architecture.tag", as timm names its weights.
        data: the set that it was trained and evaluated on.
        images: how many its figures are of.
        detector: its figures are AP, AP50, AP75, else top1 and top5, in percent, the means over seeds.
        figures, deviation: by name; the standard deviation over seeds, None with one.
        parameters: how many.
        size: what the network sees, in pixels: a classifier's crop, a detector's shorter side.
        whole: of a classifier the shorter side of what that is cut from, 0 where it is as it is; of a detector the
            longest that the other side may be.
        source: where it stands, below results/.
        note: a caveat of the data.
    """

    model: str
    data: str
    images: int
    detector: bool
    figures: Mapping[str, float]
    parameters: int
    size: int
    whole: int
    source: str
    seeds: int = 1
    deviation: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""


def read_rows(results: Path) -> list[Row]:
    """All rows of a folder of results: of single runs, then of studies; equal runs of several studies once.

    Raises:
        UserError: a file cannot be read, or names a config that is not there.
    """
    rows: dict[tuple, Row] = {}
    for row in (*_of_runs(results), *_of_studies(results / "studies")):
        architecture = row.model.partition(".")[0]
        rows.setdefault((row.data, architecture, row.parameters, *row.figures.values()), row)
    return list(rows.values())


def _of_runs(results: Path) -> Iterator[Row]:
    for path in sorted(results.glob("*.json")):
        content = read_json(path, "a run's result")
        if isinstance(content, dict) and {"task", "backbone", "dataset"} <= content.keys():
            yield _of_run(path, content)
        elif isinstance(content, dict) and content.get("check") == "detectors":
            yield from _of_detectors(path, content)


def _of_run(path: Path, content: Mapping) -> Row:
    config, words, drawn = _command(content["command"])
    detector = content["task"] == DETECTION.name
    if detector:
        cfg = load_detection_config(config, words)
        data = drawn or Path(cfg.DATA.VAL.JSON).parts[0]
        sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        figures = {name: content["bbox"][name] for name in ("AP", "AP50", "AP75")}
    else:
        cfg = load_classification_config(config, words)
        data = drawn or _set_name(content["dataset"])
        sizes = cfg.INPUT.TEST_SIZE, cfg.INPUT.TEST_RESIZE
        figures = {name: content[content["task"]][name] for name in ("top1", "top5")}
    name = f"{content['backbone']}.{path.stem}"
    return Row(name, data, content["images"], detector, figures, content["parameters"], *sizes, path.name)


def _of_detectors(path: Path, content: Mapping) -> Iterator[Row]:
    """What ``detection.acceptance.detectors`` has found, a row each."""
    config, words, data = _command(content["command"])
    cfg = load_detection_config(config, words)
    sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    images = content.get("images", VAL_IMAGES)  # not in those of an earlier version
    for architecture, found in content["architectures"].items():
        figures = {name: found[name] for name in ("AP", "AP50", "AP75")}
        name = f"{architecture}.{path.stem}"
        yield Row(name, data, images, True, figures, found["parameters"], *sizes, path.name)


def _command(text: str) -> tuple[Path, list[str], str]:
    """The config that a run's command names, the keys that it changes for the images, and the set that it draws."""
    words = shlex.split(text)
    for word in words:
        if Path(word).name in _DEMOS:
            config, drawn = _DEMOS[Path(word).name]
            return find_config(config), [], drawn
    if "--config" not in words:
        raise UserError(f"the command of a result names no --config: {text}")
    pairs = [(key, value) for key, value in zip(words, words[1:], strict=False) if key.startswith("INPUT.")]
    return find_config(words[words.index("--config") + 1]), [word for pair in pairs for word in pair], ""


def _of_studies(folder: Path) -> Iterator[Row]:
    order = list(STUDIES)
    contents = [(path, read_json(path, "a study's result")) for path in sorted(folder.glob("*.json"))]
    for path, content in sorted(contents, key=lambda one: order.index(one[1]["study"])):
        for row in content["rows"]:
            if row["runs"]:
                yield _of_study(path, content, row)


def _of_study(path: Path, content: Mapping, row: Mapping) -> Row:
    detector = content["task"] not in CLASSIFICATION_TASKS
    load = load_detection_config if detector else load_classification_config
    given = {**content["recipe"], **dict(zip(row["changes"][::2], row["changes"][1::2], strict=True))}
    sizes = [
        f"INPUT.{key}" for key in (("MIN_SIZE_TEST", "MAX_SIZE_TEST") if detector else ("TEST_SIZE", "TEST_RESIZE"))
    ]
    cfg = load(None, [word for key in sizes if key in given for word in (key, str(given[key]))])
    architecture = given.get("MODEL.BACKBONE.ARCHITECTURE", content["base"])
    tag = path.stem if row["name"] == architecture else f"{path.stem}_{_slug(row['name'])}"
    return Row(
        f"{architecture}.{tag}",
        _set_name(content["dataset"]),
        content["images"],
        detector,
        {_right(name): _of_right(name, value) for name, value in row["mean"].items()},
        row["parameters"],
        *(cfg.INPUT[key.partition(".")[2]] for key in sizes),
        f"studies/{path.name}",
        len(row["runs"]),
        {_right(name): value for name, value in row["deviation"].items()},
        content["note"],
    )


def _right(name: str) -> str:
    """An error's accuracy, by name; AP as it is."""
    return name.removesuffix("_error")


def _of_right(name: str, value: float) -> float:
    return 100 - value if name.endswith("_error") else value


def _set_name(dataset: str) -> str:
    """Of "PLACE SPLIT": the last part of the place without an archive's suffix."""
    return Path(dataset.rpartition(" ")[0]).name.removesuffix(".zip").removesuffix(".tar")


def _slug(words: str) -> str:
    return re.sub(r"\W+", "_", words.lower()).strip("_")


def by_data(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Data set → its rows, the best first; data sets by name, those of detectors first."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (not row.detector, row.data)):
        found.setdefault(row.data, []).append(row)
    for name, some in found.items():
        if len({row.detector for row in some}) > 1:
            raise UserError(f"{name} is a set of detectors and of classifiers: their tables would have one name")
        some.sort(key=lambda row: (-next(iter(row.figures.values())), row.model))
    return found
