"""Writing an exported model: nothing is left that does not load and run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from tqdm import tqdm

from engine.device import hardware
from engine.errors import UserError
from engine.export.facts import ExportFacts
from engine.export.formats import FORMATS, Session
from engine.export.int8 import quantiser
from engine.export.options import Options
from engine.export.program import Graph, capture
from engine.json_files import write_json
from engine.run.folder import command, versions
from engine.run.statements import preprocessing
from engine.task import TaskInfo
from engine.timing import medians, ratio, take_turns
from se_backbones.files import atomic_path, naming

Result = TypeVar("Result")


def facts_of(options: Options, graph: Graph, cfg: CfgNode, task: TaskInfo, classes: Sequence[str], **details):
    """What the file is to say of itself."""
    return ExportFacts(
        task=task.name,
        architecture=cfg.MODEL.BACKBONE.ARCHITECTURE,
        fused=True,
        precision=options.precision,
        inputs=graph.shapes(),
        outputs=list(graph.outputs),
        classes=list(classes),
        config=cfg.dump(),
        preprocessing=preprocessing(cfg),
        details=details,
        versions=versions(),
    )


def make_file(
    options: Options,
    graph: Graph,
    facts: ExportFacts,
    calibration: Callable[[], Sequence[dict[str, Tensor]]],
    check: Callable[[Session], Result],
) -> tuple[Path, ExportFacts, Result]:
    """Writes a graph, loads the file in its own runtime, and lets it be compared; only then it gets its name.

    Args:
        calibration: gives the inputs that int8 is made by.
        check: what is to be found out of the loaded file.

    Returns:
        where the file is, what it says of itself, and what ``check`` gives.

    Raises:
        UserError: the format or its runtime cannot do it; what ``check`` raises.
        OSError: the place cannot be written to.
    """
    kind, path = FORMATS[options.format], options.path
    writer = kind.load()
    quantise = quantiser(calibration(), not options.int8_gates) if options.precision == "int8" else None
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-")
    with beside as folder, _Stages(3) as stage:
        temporary = Path(folder) / path.name
        stage("capturing")
        program = capture(graph)
        stage("writing")
        writer.write(program, temporary, facts, quantise)
        stage("comparing")
        try:
            found = check(writer.Session(temporary, torch.device("cpu")))
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), str(path))) from error
        for here, there in zip(kind.files(temporary), kind.files(path), strict=True):
            with atomic_path(there) as part:
                os.replace(here, part)
    return path, facts, found


class _Stages(tqdm):
    """A bar of stages, which is called as each begins."""

    def __init__(self, count: int):
        super().__init__(
            total=count, bar_format="{desc} ({n_fmt} of {total_fmt}, {elapsed})", leave=False, disable=None
        )

    def __call__(self, name: str) -> None:
        self.set_description_str(name, refresh=False)
        self.update()
        self.refresh()


def compare_speed(options: Options, own: Callable, exported: Callable, images: int) -> dict:
    """How long both take, turn by turn.

    Args:
        own, exported: run the checkpoint's model, fused, in float32, and the file's on the same images, so many.
    """
    with torch.inference_mode():
        times = take_turns({"checkpoint": own, "exported": exported}, options.rounds, torch.device("cpu"))
    return {
        "images_at_a_time": images,
        "seconds_an_image": {name: round(seconds / images, 6) for name, seconds in medians(times).items()},
        "times_as_fast": ratio(times, "checkpoint", "exported"),
    }


def report_of(options: Options, path: Path, facts: ExportFacts, found: dict) -> dict:
    """The report of an export, which is written beside the file, NAME.json.

    Args:
        found: what the task found out of the file, ``compare_speed`` among it.
    """
    files = FORMATS[options.format].files(path)
    report = {
        "file": path.name,
        "format": options.format,
        "precision": options.precision,
        "architecture": facts.architecture,
        "inputs": facts.inputs,
        "outputs": facts.outputs,
        "bytes": {
            "checkpoint": options.weights.stat().st_size,
            "exported": sum(file.stat().st_size for file in files),
        },
        **found,
        "command": command(),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    write_json(path.with_name(path.name + ".json"), report)
    return report
