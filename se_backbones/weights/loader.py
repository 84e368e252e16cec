"""``load_weights``: any layout into a model of ours, every name accounted for, all or nothing."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from se_backbones.errors import WeightsError
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import Spec
from se_backbones.weights.account import inside_units
from se_backbones.weights.allow import DETECTOR_PARTS, Allowed
from se_backbones.weights.formats.own_format import is_ours
from se_backbones.weights.identity import Doubt, stated_as
from se_backbones.weights.layouts import OURS_DETECTION
from se_backbones.weights.match import Match, match
from se_backbones.weights.report import LoadReport
from se_backbones.weights.shapes import RowShape, describe, guess_architecture
from se_backbones.weights.target import Target
from se_backbones.weights.weights_file import WeightsFile, read_state_dict


def load_weights(
    model: nn.Module,
    source: str | os.PathLike | Mapping[str, Tensor] | WeightsFile,
    allow: Sequence[str] = (),
    *,
    prefix: str = "",
    preprocessing: Preprocessing | Mapping | None = None,
    network: str | None = None,
) -> LoadReport:
    """Loads weights into a model, or leaves the model as it was.

    Args:
        model: a ``Backbone``, a classifier, or a whole detector with one in it. Wrappers
            (DistributedDataParallel, torch.compile) are looked through.
        source: a file or a named source (``timm://seresnet50.ra2_in1k``), a dictionary of tensors, or what
            read_state_dict gave.
        allow: what may differ, by name: fnmatch patterns over the model's names, the backbone's own
            (``fc.*``, also inside a detector) or the file's. See ``allow.Allowed`` for ``missing:``,
            ``fresh:`` and the words ``preprocessing`` and ``architecture``; ``detection_head_patterns()`` for
            a detector that takes a backbone's weights.
        prefix: the part of the model to load, as in ``backbone.bottom_up.net.``; the rest is then no target
            and needs no allowing. Empty: the whole model, in which the network is found by itself.
        preprocessing: what the caller feeds the network: ``channel_order, scale, mean, std``. None: not
            compared.
        network: the name in ``list_backbones()`` of the network that the weights are of, where names and shapes fit
            others' networks too. None: a file that calls itself after another one is refused, and else it is taken
            for what such files usually are, with a warning.

    Returns:
        the report, which accounts for every name of the file and the model.

    Raises:
        WeightsError: the source cannot be read (see read_state_dict), or something in it is unaccounted for:
            names missing, unexpected or of the wrong shape that ``allow`` does not cover; another
            architecture (stride, pooling, SE settings) or another preprocessing than the weights were trained
            with; folded statistics for a live BatchNorm. The message holds the report. The model has not been
            touched.
    """
    weights = stated_as(source, network) if isinstance(source, WeightsFile) else read_state_dict(source, network)
    target = Target(model, prefix)
    weights, doubts = _settled(weights, target)
    found = match(weights, target)
    report = LoadReport(
        weights.source,
        weights.layout,
        weights.sha256,
        weights.architecture,
        loaded=list(found.pairs),
        converted={name: key for name, (key, _) in found.pairs.items() if key != name},
        missing=found.missing,
        unexpected=found.unexpected,
        wrong_shape=found.wrong_shape,
        derived=found.derived,
        ignored={**weights.left_out, **found.ignored},
        preprocessing=weights.preprocessing.as_dict() if weights.preprocessing else None,
        preprocessing_basis=weights.facts.basis if weights.preprocessing else "",
        classes=weights.classes,
        notes=list(weights.notes),
    )
    allowed = Allowed(allow, weights.names.values())
    _apply(allowed, report, found, target)
    problems, warnings = [*found.problems], []
    if found.touches_backbone:
        differences = [(True, text) for text in _architecture_differences(weights, target)]
        for sure, text in (*doubts, *differences):
            (problems if sure and not allowed.architecture else warnings).append(text)
    for sure, text in _preprocessing_differences(weights, preprocessing):
        (problems if sure and not allowed.preprocessing else warnings).append(text)
    report.warnings += warnings
    report.problems = problems
    if report.unaccounted or problems:
        raise WeightsError(_explain(report, weights, target))
    with torch.no_grad():
        for name, (_, tensor) in found.pairs.items():
            target.tensors[name].copy_(tensor)
    return report


def _apply(allowed: Allowed, report: LoadReport, found: Match, target: Target) -> None:
    for kind, names in (
        ("missing", report.missing),
        ("unexpected", report.unexpected),
        ("wrong_shape", [wrong.name for wrong in report.wrong_shape]),
    ):
        for name in names:
            ours = found.our_names.get(name, name)
            if pattern := allowed.by(kind, name, ours, target.in_backbone(name), target.in_backbone(ours)):
                report.allowed[name] = pattern


def _settled(weights: WeightsFile, target: Target) -> tuple[WeightsFile, list[tuple[bool, str]]]:
    """The weights, taken for what they are most likely; and what is to be said where that is a guess: whether it stops
    the load, and a sentence."""
    doubt = Doubt.of(weights)
    if doubt is None or target.family is not weights.family or target.spec is None:
        return weights, []
    spec, alike, usual = target.spec, doubt.like(target.spec), doubt.row.name
    name = doubt.row_of(alike).name if alike else usual
    say = f"network={name!r} (MODEL.WEIGHTS_NETWORK {name} in a config)"
    if doubt.named and doubt.named is alike:
        return stated_as(weights, name), [
            (False, f"{doubt.sentence()}. It is taken at its word; if you know it, say {say}")
        ]
    if doubt.named:
        row = doubt.row_of(doubt.named)
        take = f"Take {row.name!r} in place of {spec.name!r}" if row else "No row of list_backbones() is that network"
        return weights, [(True, f"{doubt.sentence()}. {take}; if you know that it is of {name}, say {say}")]
    if alike:
        text = f"{doubt.sentence()}; nothing in the file tells. If it is of {name}, say {say}"
        return stated_as(weights, name), [(True, text)]
    return weights, [(False, f"{doubt.sentence()}. The file is taken for {usual}; if you know it, say {say}")]


def _architecture_differences(weights: WeightsFile, target: Target):
    """What tells two networks apart and leaves no mark on a tensor."""
    spec = target.spec
    if spec is None:
        return
    if weights.layout == OURS_DETECTION and weights.architecture is None:
        return  # a bare state_dict of a detector of ours: it says nothing about its network
    if weights.family is target.family:
        yield from _unmarked_differences(weights, target)
    stated = weights.se or {}
    for name in ("placement", "squeeze", "gate"):
        ours = getattr(spec.se, name, None)
        if name in stated and ours is not None and stated[name] != ours:
            yield f"the weights were trained with SE {name} {stated[name]!r}, and the model has {ours!r}"


def _unmarked_differences(weights: WeightsFile, target: Target):
    spec, settings = target.spec, target.family.unmarked
    here = f"{spec.name} ({', '.join(f'{name}={getattr(spec.hyper, name)}' for name in settings)})"
    for name, matters in settings.items():
        theirs, ours = weights.facts.hyper.get(name), getattr(spec.hyper, name)
        if not matters(spec) or theirs == ours:
            continue
        if theirs is None:
            yield (
                f"the file does not say whether its network has {name}={ours}, as {here} has; if you know "
                f"that it does, say so: network={spec.name!r}, or put 'architecture' into allow"
            )
        else:
            yield (
                f"the weights are of a network with {name}={theirs} "
                f"({weights.architecture or weights.layout}), and the model is {here}: the names fit and "
                f"the outputs would not. {_row_advice(weights, spec)}"
            )


def _row_advice(weights: WeightsFile, spec: Spec) -> str:
    try:
        name = weights.architecture or guess_architecture(weights.backbone(), weights.facts.hyper, weights.family)
    except WeightsError:
        name = spec.name
    if name == spec.name:
        return "No row of list_backbones() is that network."
    return (
        f"Take {name!r} in place of {spec.name!r}; if you know that they are of {spec.name}, say network={spec.name!r} "
        f"(MODEL.WEIGHTS_NETWORK {spec.name} in a config)."
    )


def _preprocessing_differences(weights: WeightsFile, ours: Preprocessing | Mapping | None):
    if ours is None or weights.preprocessing is None:
        return
    ours = Preprocessing.of(ours)
    if not weights.preprocessing.same_as(ours):
        sure = weights.facts.basis != "usual"
        yield (
            sure,
            f"the weights want images as {weights.preprocessing} ({weights.facts.basis} for "
            f"{weights.layout}), and the config gives {ours}. Change the config"
            + (", or put 'preprocessing' into allow if you know better" if sure else ", if the weights are as usual"),
        )


def _explain(report: LoadReport, weights: WeightsFile, target: Target) -> str:
    lines = [f"{weights.source}: these weights do not fit the model, which was left as it was"]
    lines += [f"- {text}" for text in report.problems]
    refused = [name for name in report.unexpected if name not in report.allowed]
    parts = [part for part in DETECTOR_PARTS if fnmatch.filter(refused, part)]
    if weights.is_detector and not target.is_detector and parts:
        lines.append(
            "- the file is a whole detector, and the model a network alone. To take its backbone, allow the rest: "
            + ", ".join(f"'unexpected:{part}'" for part in parts)
        )
    lines += [f"- {text}" for text in _hints(report, weights, target)]
    if report.unaccounted:
        lines.append(
            f"- {len(report.unaccounted)} names are unaccounted for. What may differ is allowed by name, "
            "for example allow=('fc.*',) for a new classifier"
        )
    report_text = LoadReport(**{**vars(report), "problems": []}).format()
    return "\n".join(lines) + "\n" + report_text


def _hints(report: LoadReport, weights: WeightsFile, target: Target):
    """What a person makes of many names at once."""
    if not report.unaccounted or target.family is None:
        return
    if weights.family is not target.family:
        yield f"the file's network is of the family {weights.family.name}, and the model's of {target.family.name}"
        return
    unknown = [weights.in_network(weights.names[key]) for key in report.unexpected]
    if strange := inside_units(weights.backbone(), unknown, target.spec):
        yield strange
    pruned = [list(width) for width in weights.metadata.get("widths") or ()] if is_ours(weights.metadata) else []
    if pruned != [list(width) for width in target.spec.widths]:
        yield (
            "the file's network was pruned, and the model has other channels: build it with the widths that the run's "
            "config has (MODEL.BACKBONE.WIDTHS; create_backbone(widths=…))"
            if pruned
            else "the model is built as a pruned network (MODEL.BACKBONE.WIDTHS); the file does not say it is of one"
        )
    theirs, ours = weights.shape, describe(target.backbone_tensors(), target.family)
    if theirs is None or ours is None:
        return
    if theirs.has_se and ours.has_se and theirs.se_hidden != ours.se_hidden:
        stages = ", ".join(dict.fromkeys(stage for _, stage in target.spec.sites()))
        yield (
            f"the excitation layers have {list(theirs.se_hidden)} channels in the file and "
            f"{list(ours.se_hidden)} in the model, for {stages}. SEConfig(reduction={theirs.reduction}) "
            "fits the file"
        )
    if theirs.has_se and ours.has_se and theirs.se_without != ours.se_without:
        yield (
            f"units without SE are {', '.join(theirs.se_without) or 'none'} in the file and "
            f"{', '.join(ours.se_without) or 'none'} in the model: SEConfig(without={theirs.se_without})"
        )
    if theirs.has_se and ours.has_se and theirs.se_bias != ours.se_bias:
        yield (
            f"the file's excitation layers have {'biases' if theirs.se_bias else 'no biases'}: "
            f"SEConfig(bias={theirs.se_bias})"
        )
    if theirs.has_se != ours.has_se and not strange:
        yield (
            "the file's network has squeeze-and-excitation and the model has none"
            if theirs.has_se
            else "the model has squeeze-and-excitation and the file's network has none; a trained plain "
            "network gets it without harm by inserting it after loading, not by allowing the names here: "
            "MODEL.SE.INSERT True in a config, tools/insert_se.py for a file, insert_se(model) in code"
        )
    if isinstance(theirs, RowShape) and not set(theirs.rows) & set(ours.rows):
        yield f"the file holds {theirs}, and the model {ours}"
    yield from target.family.explain(theirs, ours)
    if any(name.endswith("running_var") for name in report.missing) and not any(
        name.endswith("running_var") for name in report.loaded
    ):
        yield "the file's normalisations have no running statistics: GroupNorm has none (norm='GN')"
    if theirs.num_classes and ours.num_classes and theirs.num_classes != ours.num_classes:
        yield f"the file's classifier has {theirs.num_classes} classes and the model's {ours.num_classes}"
