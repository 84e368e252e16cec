"""What the gates of a trained network do, by class: figures 6 and 7 of the paper, as numbers."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from classification.images.batches import test_batches
from classification.index.index import ImageIndex
from classification.model import ImageClassifier, build_network
from classification.train import load_index
from engine import compat  # noqa: F401  (before detectron2)
from engine.device import choose_device
from engine.errors import UserError
from engine.gates.account import even
from engine.run.experiment import on_device
from engine.run.initial_weights import find_trained_weights, load_trained_weights
from se_backbones.backbone import Backbone, SESite
from se_backbones.surgery.gates import HIGH, LOW, GateMoments, record
from studies.lab.cells import Cell
from studies.lab.surgery import config_of

# The protocol of section 7.2.
IMAGES, CHANNELS = 50, 50  # of a class, and of a gate
# Those that the paper draws, by name and as ImageNet's folders are called (WordNet 3.0; "plane" is the airliner), and
# how many of them, the first, with the spread within a class (figure 7).
CLASSES = (("goldfish", "n01443537"), ("plane", "n02690373"), ("pug", "n02110958"), ("cliff", "n09246464"))
SPREAD = 2


def watched(network: Backbone) -> list[SESite]:
    """The last gate of each stage, and all of the last one: for a ResNet-50 the paper's SE_2_3, SE_3_4, SE_4_6, SE_5_1,
    SE_5_2 and SE_5_3."""
    gated = [site for site in network.se_sites() if site.gate is not None]
    last = {site.stage: site for site in gated}  # of a stage the last one stays
    return [site for site in gated if site.stage == gated[-1].stage or last[site.stage] is site]


def paper_name(network: Backbone, site: SESite) -> str:
    """``SE_5_2``, as the paper names the second gate of stage 5: by the number that the stage's name ends in, or the
    name itself."""
    within = [other.path for other in network.se_sites() if other.stage == site.stage]
    number = re.search(r"\d+$", site.stage)
    return f"SE_{number[0] if number else site.stage}_{within.index(site.path) + 1}"


def chosen_images(index: ImageIndex, images: int = IMAGES) -> list[int]:
    """The positions of each class's first images, so many of each. Raises UserError where a class has fewer than 2."""
    labels = np.asarray(index.labels)
    chosen = [np.flatnonzero(labels == number)[:images] for number in range(len(index.classes))]
    few = [name for name, found in zip(index.classes, chosen, strict=True) if len(found) < 2]
    if few:
        raise UserError(f"{index.source}: the spread within a class needs two images of it; {few[0]} has fewer")
    return sorted(int(position) for found in chosen for position in found)


def shown_classes(classes: Sequence[str]) -> list[int]:
    """The classes that are drawn: the paper's where the data have them, else others drawn evenly from the list."""
    ours = [index for names in CLASSES for index, own in enumerate(classes) if own in names]
    even = np.linspace(0, len(classes) - 1, min(len(CLASSES), len(classes))).round().astype(int).tolist()
    return list(dict.fromkeys([*ours, *even]))[: len(CLASSES)]


def gates_of(cell: Cell) -> dict:
    """What the gates of a whole cell's weights do on its validation images, as plain values.

    Raises:
        UserError: the network has no gates, or the data do not do.
    """
    task = cell.kind.task
    cfg = on_device(config_of(cell), choose_device(cell.cfg.MODEL.DEVICE))
    index = load_index(task, cfg, cfg.DATA.VAL)
    network = build_network(cfg, len(index.classes)).eval()
    sites = watched(network) if network.spec.se is not None else []
    if not sites:
        raise UserError(f"{network.spec.name} has no gates to look at: choose a network with SE")
    with tempfile.TemporaryDirectory() as aside:
        weights = find_trained_weights(cfg, cell.folder, asked_for=True)
        load_trained_weights(network, weights, cfg, task.info, Path(aside))
    model = ImageClassifier(network, cfg).eval()
    positions = chosen_images(index)
    batches = ((batch.images, batch.labels) for batch in test_batches(index, positions, cfg))
    moments = record(model, sites, batches, len(index.classes))
    shown = shown_classes(index.classes)
    return {
        "images": len(positions),
        "classes": [index.classes[number] for number in shown],
        "all_classes": len(index.classes),
        "gates": [_gate(paper_name(network, site), site, moments[site.path], shown) for site in sites],
    }


def _gate(name: str, site: SESite, moments: GateMoments, shown: Sequence[int]) -> dict:
    mean, spread = moments.class_mean, moments.class_variance.sqrt()
    channels = even(mean.shape[1], CHANNELS)
    values = moments.values * mean.shape[1]
    return {
        "name": name,
        "path": site.path,
        "stage": site.stage,
        "channels": channels,
        "of_channels": mean.shape[1],
        "mean_of_classes": _rounded(mean.mean(0)[channels]),
        "classes": [_rounded(mean[number, channels]) for number in shown],
        "spreads": [_rounded(spread[number, channels]) for number in shown[:SPREAD]],
        "mean": round(float(mean.mean()), 4),
        "separation": moments.separation(),
        "above": int(moments.high.sum()) / values,
        "below": int(moments.low.sum()) / values,
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def gate_table(gates: Mapping) -> list[tuple[str, ...]]:
    """The numbers of each gate, as texts, with a head."""
    head = ("gate", "site", "channels", "mean", "between / within classes", f"above {HIGH}", f"below {LOW}")
    rows = [
        (
            gate["name"],
            f"{gate['stage']}, `{gate['path']}`",
            str(gate["of_channels"]),
            f"{gate['mean']:.3f}",
            "-" if gate["separation"] is None else f"{gate['separation']:.3f}",
            f"{100 * gate['above']:.1f} %",
            f"{100 * gate['below']:.1f} %",
        )
        for gate in gates["gates"]
    ]
    return [head, *rows]
