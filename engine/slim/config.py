"""The config of a network that was changed, out of what its spec says."""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode

from engine.config.se import add_se_defaults
from se_backbones import SEConfig, Spec, find_spec


def config_of(cfg: CfgNode, spec: Spec, weights: Path) -> CfgNode:
    """A run's config with the network that was made of the run's: what ``engine.config.se.se_config`` reads back.

    It trains on from the weights as they are, into a folder of their name beside them.

    Args:
        spec: of the network as it is now (``Backbone.spec``).
        weights: where its checkpoint is to lie.
    """
    cfg = cfg.clone()
    cfg.defrost()
    model, row = cfg.MODEL, find_spec(spec.name)
    model.BACKBONE.ARCHITECTURE = spec.name
    _set_se(model, spec, row)
    model.BACKBONE.WIDTHS = _lists(spec.widths)
    model.WEIGHTS, model.WEIGHTS_NETWORK, model.ALLOW = str(weights), "", []
    if "HEAD" in model:  # a key of tasks that would otherwise begin with a new one
        model.HEAD = "keep"
    cfg.OUTPUT_DIR = str(weights.with_suffix(""))
    cfg.freeze()
    return cfg


def _set_se(model: CfgNode, spec: Spec, row: Spec) -> None:
    defaults = type(model)({"MODEL": {"BACKBONE": {}}})
    add_se_defaults(defaults)
    model.SE = defaults.MODEL.SE
    se = spec.se
    if se is None and row.se is None:
        return
    if se is None:  # the row has no plain twin whose name would say so
        se = SEConfig(without=tuple(path for path, _ in row.sites()))
    for key in model.SE:
        value = getattr(se, key.lower(), None)
        if key == "INSERT":
            model.SE.INSERT = row.se is None  # only so can a plain row have gates
        elif isinstance(model.SE[key], list):
            model.SE[key] = [value] if isinstance(value, int) else _lists(value or ())
        else:
            model.SE[key] = value


def _lists(value):
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
