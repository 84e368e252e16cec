"""The part of a config that describes a backbone's SE, the same for every task."""

from __future__ import annotations

import re

from fvcore.common.config import CfgNode

from engine.errors import UserError
from se_backbones import SEConfig, find_spec, twin_name
from se_backbones.registry import skeleton
from se_backbones.surgery.insert import neutral_config
from se_backbones.widths import check_widths, checked_widths


def add_se_defaults(cfg: CfgNode) -> None:
    """Adds MODEL.SE, the fields of SEConfig in capitals and INSERT, and MODEL.BACKBONE.WIDTHS."""
    standard = SEConfig()
    # Of a pruned network: [path of a layer, output channels, input channels] where they are fewer than the row's.
    cfg.MODEL.BACKBONE.WIDTHS = []
    cfg.MODEL.SE = type(cfg)(  # blocks of other kinds cannot be merged into a config of Detectron2
        {
            "REDUCTION": [standard.reduction],  # one, one a stage, or [[res3, 8], [res5, 32]] by name
            "PLACEMENT": standard.placement,
            "STAGES": [],  # by name or number; none named: all
            "SQUEEZE": standard.squeeze,
            "GATE": standard.gate,
            "BIAS": standard.bias,
            "INIT": standard.init,
            "WITHOUT": [],  # sites of those stages that have no SE after all: layer4.2, say
            "HIDDEN": [],  # sites whose bottleneck has other channels than C / r: [[layer4.0, 24]]
            # MODEL.WEIGHTS are a plain network's (or a whole plain detector's): SE is put into them so that the model
            # starts by computing what they computed. Counts where a training begins, and nowhere else.
            "INSERT": False,
        }
    )


def se_config(cfg: CfgNode) -> SEConfig | None:
    """MODEL.SE as a value; None for a plain architecture.

    Raises:
        UserError: an unknown architecture, a value that SEConfig refuses, SE settings on a plain architecture, or
            with MODEL.SE.INSERT settings with which SE cannot leave a trained network's function as it is.
    """
    name = cfg.MODEL.BACKBONE.ARCHITECTURE
    settings = {key.lower(): value for key, value in cfg.MODEL.SE.items()}
    insert = settings.pop("insert")
    settings["stages"] = settings["stages"] or None
    try:
        row = find_spec(name)
        se = SEConfig(**settings).resolved(row.sites())
        se = neutral_config(se) if insert else se
    except ValueError as error:
        named = re.sub(r"\bSE (reduction|placement|stages|squeeze|gate|init|without|hidden)\b", _as_key, str(error))
        raise UserError(named if named != str(error) else f"MODEL.BACKBONE.ARCHITECTURE, MODEL.SE: {error}") from error
    if row.se is not None:
        return se
    twin = twin_name(row, se=True)
    if insert:
        if twin:
            raise UserError(
                f"MODEL.SE.INSERT: name the network that comes of it, MODEL.BACKBONE.ARCHITECTURE {twin}; {name} is "
                f"the one that MODEL.WEIGHTS are of"
            )
        return se  # a plain network that has no SE row of its own: MSRA's
    if se != SEConfig():
        instead = f"use {twin}" if twin else "it has no twin with SE (MODEL.SE.INSERT puts SE into trained weights)"
        raise UserError(
            f"MODEL.SE is set, but MODEL.BACKBONE.ARCHITECTURE {name} is a plain network and would ignore it: "
            f"{instead}, or remove MODEL.SE"
        )
    return None


def _check_placement(name: str, se: SEConfig) -> None:
    for site in skeleton(find_spec(name)).se_sites():
        if se.at(site.path, site.stage) and se.placement not in site.owner.placements:
            raise UserError(
                f"MODEL.SE.PLACEMENT {se.placement}: {name} knows {', '.join(site.owner.placements)} (at {site.path})"
            )


def _as_key(field: re.Match) -> str:
    return f"MODEL.SE.{field[1].upper()}"


def check_se(cfg: CfgNode) -> None:
    """Raises UserError where ``se_config`` would, where the architecture does not know the placement or the widths, and
    where weight decay would undo an insertion."""
    se = se_config(cfg)
    try:
        widths = checked_widths(cfg.MODEL.BACKBONE.WIDTHS)
        check_widths(widths, skeleton(find_spec(cfg.MODEL.BACKBONE.ARCHITECTURE)))
    except ValueError as error:
        raise UserError(f"MODEL.BACKBONE.WIDTHS, of {cfg.MODEL.BACKBONE.ARCHITECTURE}: {error}") from error
    if se is not None:
        _check_placement(cfg.MODEL.BACKBONE.ARCHITECTURE, se)
    if not cfg.MODEL.SE.INSERT or se is None or se.gate != "relu":
        return
    decay = cfg.SOLVER.WEIGHT_DECAY if cfg.SOLVER.WEIGHT_DECAY_BIAS is None else cfg.SOLVER.WEIGHT_DECAY_BIAS
    if decay:
        raise UserError(
            f"MODEL.SE.INSERT with MODEL.SE.GATE relu starts each gate's bias at 1, and weight decay ({decay:g}) would "
            f"pull it off: set SOLVER.WEIGHT_DECAY_BIAS 0.0, or use the sigmoid gate, which decay leaves alone"
        )
