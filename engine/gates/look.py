"""A trained model run over a data set, its gates watched, and what they did written down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from tqdm import tqdm

from engine.device import device_of, hardware
from engine.errors import UserError
from engine.gates.account import MEANINGS, account
from engine.gates.options import Options
from engine.gates.page import write_page
from engine.gates.pictures import draw_all
from engine.json_files import write_json
from engine.run.folder import command, versions
from engine.task import TaskInfo
from engine.train.launch import shows_progress
from se_backbones.backbone import SESite, find_network, sites_of
from se_backbones.surgery.gates import HIGH, LOW, record

FILE = "gates.json"


@dataclass
class Images:
    """Images of a data set, as a task gives them.

    Attributes:
        source: where they are, for people.
        total, chosen: how many there are, and how many of them are looked at.
        classes: their names, K.
        counted: how an image counts for a class, a sentence without its full stop.
        batches: (images as the model takes them, their classes as ``GateMoments.add`` takes them).
    """

    source: str
    total: int
    chosen: int
    classes: Sequence[str]
    counted: str
    batches: Iterable[tuple[object, Tensor]]


def gated_sites(model: nn.Module, weights: Path) -> list[SESite]:
    """The sites of a model that carry a gate, a stage in a detector's head included, first to last.

    Raises:
        UserError: the model has none.
    """
    try:
        sites = [site for site in sites_of(model) if site.gate is not None]
    except ValueError as error:
        raise UserError(f"{weights}: {error}") from error
    if not sites:
        raise UserError(
            f"{weights}: {find_network(model).spec.name} has no SE here, so there is no gate to look at. Give the "
            "weights of a network with SE; tools/insert_se.py puts SE into one without"
        )
    return sites


def look(options: Options, model: nn.Module, cfg: CfgNode, task: TaskInfo, images: Images) -> dict:
    """Runs a model over images; writes ``gates.json``, pictures and ``summary.html`` into the folder asked for.

    Args:
        model: in eval mode.

    Returns:
        what is in ``gates.json``.

    Raises:
        UserError: the model has no gates, or one of them saw none of the images.
        OSError: the folder cannot be written to.
    """
    sites = gated_sites(model, options.weights)
    with tqdm(total=images.chosen, desc="looking", unit="img", disable=not shows_progress(), leave=False) as bar:
        moments = record(model, sites, _counted(images.batches, bar), len(images.classes))
    seen = moments[sites[0].path]
    for site in sites:
        if not moments[site.path].images:
            raise UserError(f"{images.source}: the gate at {site.path} saw none of {images.chosen} images")
    network = find_network(model)
    content = {
        "task": task.name,
        "architecture": network.spec.name,
        "weights": str(options.weights),
        "data": images.source,
        "images": seen.images,
        "of_images": images.total,
        "classes": list(images.classes),
        "images_of_classes": seen.count.tolist(),
        "counted": images.counted,
        "high": HIGH,
        "low": LOW,
        "meanings": MEANINGS,
        "command": command(),
        "hardware": hardware(device_of(model)),
        "versions": versions(),
        "gates": [account(site, moments[site.path]) for site in sites],
    }
    folder = options.folder
    write_json(folder / FILE, content, indent=None)
    write_page(content, draw_all(content, folder), folder)
    return content


def _counted(batches: Iterable[tuple[object, Tensor]], bar: tqdm) -> Iterable[tuple[object, Tensor]]:
    for images, classes in batches:
        yield images, classes
        bar.update(len(images))
