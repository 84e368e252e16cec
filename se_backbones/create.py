"""``create_backbone``: the one way to a network of the table, with random weights or trained ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from se_backbones.backbone import Backbone
from se_backbones.registry import build, family_of, find_spec, skeleton
from se_backbones.se import SEConfig
from se_backbones.weights.loader import load_weights
from se_backbones.weights.sources.published import published_weights
from se_backbones.weights.weights_file import WeightsFile
from se_backbones.widths import Width, checked_widths

_KEEP = object()

logger = logging.getLogger(__name__)


def create_backbone(
    name: str,
    num_classes: int | None = None,
    *,
    pretrained: bool | str | os.PathLike | WeightsFile | Mapping[str, Tensor] | None = False,
    se: SEConfig | None = _KEEP,
    norm: str = "BN",
    freeze_at: int = 0,
    out_features: Sequence[str] | None = None,
    last_dilation: int = 1,
    dropout: float | None = None,
    zero_init_last: bool = False,
    recompute: bool = False,
    widths: Sequence[Width] = (),
) -> Backbone:
    """Builds a network of the table.

    Args:
        name: one of ``list_backbones()``.
        num_classes: of the classifier; 0 builds none. By default that of the data set the row is for: 1000, or 10.
        pretrained: True for the published ImageNet weights (``list_backbones(pretrained=True)`` names the networks that
            have some), or a source as ``load_weights`` takes one: a file, ``timm://NAME``, ``hf://OWNER/NAME``, a
            dictionary of tensors.
            A classifier of another size starts anew where ``num_classes`` asks for it; the weights of a classifier or
            of last stages that are not built are left aside; every other name must fit. The account of all names is the
            network's ``weights_report``, which has the preprocessing and the classes too.
        se: SE settings in place of the row's own; None makes the plain network. Given to a plain row, it makes
            its SE twin.
        norm: ``BN``, ``FrozenBN``, ``SyncBN`` or ``GN``.
        freeze_at: how many leading stages are fixed, from 0, none, to all. A fixed BatchNorm becomes a
            FrozenBatchNorm2d.
        out_features: the stages whose maps ``forward_features`` returns, all by default. Stages behind the last of
            them are not built.
        last_dilation: 1, or 2 for a last stage that is dilated and keeps the stride of the one before (DC5).
        dropout: probability before the classifier, in place of the row's own.
        zero_init_last: each residual branch starts at zero (Goyal et al., arXiv 1706.02677, section 5.1).
        recompute: gradient checkpointing: blocks are computed again in the backward pass and need not keep their
            inner maps. Can be set on the network later.
        widths: layers with fewer channels than the row's, as in ``Spec.widths``: of a pruned network.

    Raises:
        ValueError: an unknown name (the message gives the nearest ones) or a value outside those above.
        WeightsError: a ValueError too: no weights are published for it, or they cannot be had, or do not fit.
    """
    spec = find_spec(name)
    network_class = family_of(spec).network
    stages = network_class.stages
    out_features = stages if out_features is None else out_features
    other_classes = num_classes is not None
    num_classes = num_classes if other_classes else spec.num_classes
    if num_classes < 0:
        raise ValueError(f"num_classes must be 0, for no classifier, or more; got {num_classes!r}")
    if not out_features or not set(out_features) <= set(stages):
        raise ValueError(f"out_features must be some of {', '.join(stages)}; got {tuple(out_features)!r}")
    if num_classes > 0 and stages[-1] not in out_features:
        raise ValueError(
            f"a classifier needs {stages[-1]} among out_features; build with num_classes=0 for features alone"
        )
    if freeze_at not in range(len(stages) + 1):
        raise ValueError(f"freeze_at must be 0 (nothing) to {len(stages)} (all stages); got {freeze_at!r}")
    if last_dilation not in (1, 2):
        raise ValueError(f"last_dilation must be 1 or 2; got {last_dilation!r}")
    if last_dilation > 1 and not network_class.can_dilate:
        raise ValueError(f"last_dilation: the last stage of {name} cannot be dilated")
    if dropout is not None:
        spec = replace(spec, hyper=replace(spec.hyper, dropout=dropout))
    spec = spec.with_se(spec.se if se is _KEEP else se)
    spec = replace(spec, widths=checked_widths(widths))
    source = published_weights(name) if pretrained is True else pretrained
    network = build(
        spec,
        num_classes,
        out_features=out_features,
        norm=norm,
        last_dilation=last_dilation,
        zero_init_last=zero_init_last,
    )
    if source is not False and source is not None:  # an empty name is a mistake, and no wish for random weights
        _load(network, source, new_classifier=other_classes)
    network.freeze_stages(freeze_at)
    network.recompute = recompute
    return network


def _load(network: Backbone, source: str | os.PathLike | WeightsFile | Mapping, new_classifier: bool) -> None:
    network.weights_report = report = load_weights(network, source, allow=tuple(_allowed(network, new_classifier)))
    for text in report.warnings:
        logger.warning("%s: %s", report.source, text)


def _allowed(network: Backbone, new_classifier: bool) -> Iterator[str]:
    """What of the weights may be left aside: the parts that were asked for otherwise than the row has them."""
    if network.num_classes < 1:
        yield from (f"unexpected:{path}.*" for path in network.head_paths)
    elif new_classifier:
        yield f"wrong_shape:{network.head_path}.*"
    for stage, paths in skeleton(network.spec).stage_paths.items():
        if stage not in network.stages:
            yield from (f"unexpected:{path}.*" for path in paths)
