"""The gates of a trained network that hardly move, taken out one after the other while it stays as good."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from engine.errors import UserError
from engine.slim.picture import draw_steps
from engine.slim.report import describe_change, report_of, write_result
from engine.slim.subject import Score, Subject
from se_backbones.backbone import sites_of
from se_backbones.surgery.fold import GateRange, fold_gate, gate_range, obstacle, watch_gates


@dataclass(frozen=True)
class Step:
    """A gate that was tried: the figure, in percent, with it and all before it gone, and whether it stayed out."""

    gate: str
    value: float
    dropped: bool


def drop_gates(
    subject: Subject, output: Path, calibration: int = 256, fall: float | None = None, rounds: int = 15
) -> dict:
    """Takes the most constant gates out of a subject's network, its means in their place (see
    ``fold_constant_gates``), until its figure falls by more than allowed; and writes what is left.

    The means, and the order, by the largest distance of any value from its channel's mean, are those of the whole
    network on images of the training split. The figure is the validation split's, held against the whole network's
    at every step; the gate with which it is too low goes back, and nothing behind it is tried.

    Args:
        output: of the checkpoint, NAME.pth; beside it NAME.yaml, NAME.json and NAME.png.
        calibration: how many images the gates are watched on.
        fall: in points of the figure, from 0 up; None: one standard error of the whole network's.
        rounds: of the times that are measured.

    Returns:
        the report, which is NAME.json.

    Raises:
        UserError: the network has no gates, none of them can be taken out, already the first one costs more than is
            allowed, or ``fall`` is no such number. Nothing is written then.
    """
    if fall is not None and not 0 <= fall < math.inf:
        raise UserError(f"--fall is a number of points, 0 or more; got {fall}")
    subject.check_output(output)
    gates, means, seen = _watch(subject, calibration)
    can_go = sorted((gate for gate in gates if not gate.reason), key=lambda gate: gate.deviation)
    if not can_go:
        raise UserError(f"{subject.weights}: none of its gates can be dropped: {_reasons(gates)}")
    before = subject.evaluate()
    allowed = before.standard_error if fall is None else fall
    steps, after = drop_while(subject, [(gate.name, means[gate.name]) for gate in can_go], before, allowed)
    if not steps[0].dropped:
        raise UserError(
            f"{subject.weights}: without the most constant gate, {steps[0].gate}, {_label(subject, before)} falls from "
            f"{before.value:.2f} to {steps[0].value:.2f}, by more than {allowed:.2f} points: nothing was dropped. A "
            "larger --fall allows more"
        )
    for gate in can_go:
        gate.folded = any(step.dropped and step.gate == gate.name for step in steps)
        if not gate.folded:
            gate.reason = f"moves more than {steps[-1].gate}, without which the figure falls too far"
            if gate.name == steps[-1].gate:
                gate.reason = "without it the figure falls too far"
    report = report_of(
        subject, "drop", before, after, rounds,
        allowed_fall=allowed, calibration_images=seen, steps=[asdict(step) for step in steps],
        gates=[_plain(gate) for gate in gates],
    )  # fmt: skip
    write_result(subject, output, report, lambda path: draw_steps(report, _label(subject, before), path))
    return report


def drop_while(
    subject: Subject, gates: Sequence[tuple[str, Tensor]], before: Score, allowed: float
) -> tuple[list[Step], Score]:
    """Takes gates out of a subject's model, in this order, for as long as its figure is not lower than before by more
    than allowed.

    Args:
        gates: (path, mean (C,)).
        before: the whole model's figure. allowed: points.

    Returns:
        the steps, of which the last one alone may not have been dropped; and the figure of the model as it is left.
    """
    steps, score = [], before
    for path, mean in tqdm(gates, desc="dropping gates", unit="gate", leave=False, disable=None):
        kept, kept_score = subject.model, score
        subject.model = copy.deepcopy(kept)
        fold_gate(subject.model, _site(subject, path), mean)
        score = subject.evaluate()
        good = score.value >= before.value - allowed
        steps.append(Step(path, score.value, good))
        if not good:
            subject.model, score = kept, kept_score
            break
    return steps, score


def _watch(subject: Subject, calibration: int) -> tuple[list[GateRange], dict[str, Tensor], int]:
    """Every gate, with the reason where it cannot be taken out; the means of those that were watched; images."""
    gated = [site for site in sites_of(subject.model) if site.gate is not None]
    if not gated:
        raise UserError(f"{subject.weights}: {subject.network.spec.name} has no gates to drop")
    watched, images = {}, 0
    if any(site.gate is not None for site in subject.network.se_sites()):
        batches = tqdm(subject.images(calibration), desc="watching gates", leave=False, disable=None)
        watched, images = watch_gates(subject.network, batches)
    gates = []
    for site in gated:
        if site.path not in watched:
            missing = (math.nan,) * 4
            gates.append(GateRange(site.path, *missing, reason="is of a stage that sees regions and not images"))
            continue
        gate = gate_range(site.path, watched[site.path])
        gate.reason = obstacle(site, watched[site.path].mean)
        gates.append(gate)
    return gates, {path: gate.mean for path, gate in watched.items()}, images


def _site(subject: Subject, path: str):
    return next(site for site in subject.network.se_sites() if site.path == path)


def _reasons(gates: Sequence[GateRange]) -> str:
    by_reason: dict[str, list[str]] = {}
    for gate in gates:
        by_reason.setdefault(gate.reason, []).append(gate.name)
    return "; ".join(f"the gate of {', '.join(names)} {reason}" for reason, names in by_reason.items())


def _plain(gate: GateRange) -> dict:
    """As JSON has it: None where a gate was not watched."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in vars(gate).items()}


def _label(subject: Subject, score: Score) -> str:
    return subject.info.label(score.name)


def describe(report: dict, label: str) -> str:
    """The report in lines. ``label``: what the figure is called."""
    values = {step["gate"]: step["value"] for step in report["steps"]}
    gates = report["gates"]
    dropped = [gate for gate in gates if gate["folded"]]
    lines = [
        f"{len(dropped)} of {len(gates)} gates dropped; {label} may fall by {report['allowed_fall']:.2f} points",
        f"  {'gate':14}{'deviation':>9}{'mean':>9}  {label} without it and those above",
    ]
    order = list(values)
    for gate in sorted(gates, key=lambda gate: order.index(gate["name"]) if gate["name"] in values else len(order)):
        value = f"{values[gate['name']]:.2f}  " if gate["name"] in values else ""
        fate = "dropped" if gate["folded"] else f"kept: {gate['reason']}"
        seen = [f"{'-' if gate[key] is None else format(gate[key], '.4f'):>9}" for key in ("deviation", "mean")]
        lines.append(f"  {gate['name']:14}{''.join(seen)}  {value}{fate}")
    return "\n".join([*lines, describe_change(report, label)])
