"""A reduction ratio for every gate under a budget, as a command and as what a study's rows do to a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.errors import UserError
from engine.json_files import write_json
from engine.slim.picture import draw_units
from engine.slim.report import describe_change, report_of, train_on, write_result
from engine.slim.subject import Subject
from se_backbones.surgery.ratios import (
    ROUNDS,
    drop_hidden_units,
    gated_sites,
    parameters_at,
    se_parameters,
    uniform_units,
)

IMAGES = 1024


def ratios(
    subject: Subject,
    seed: int = 0,
    *,
    budget: float | None = None,
    reduction: int | None = None,
    uniform: bool = False,
    images: int = IMAGES,
    rounds: int = ROUNDS,
) -> dict:
    """Drops hidden units of a subject's gates (``se_backbones.surgery.ratios``).

    Args:
        seed: nothing is drawn at random; as every surgery takes one.
        budget: SE's parameters that stay, of those that there are, above 0 and below 1.
        reduction: in its place, as many as this ratio would leave, the same for all gates.
        uniform: with ``reduction``: each gate is left with C / reduction units, and which of its own these are is
            chosen alike; else the units are spread over the gates by what they are worth.
        images: of the training split, that losses are taken over.
        rounds: as there.

    Returns:
        the report as plain values.

    Raises:
        UserError: a budget that cannot be had, or a network without gates.
    """
    if (budget is None) == (reduction is None) or (uniform and reduction is None):
        raise UserError("a budget of SE's parameters is given as a share or by a reduction ratio, one of the two")
    try:
        total = se_parameters(gated_sites(subject.model))
        if reduction is None:
            if not 0 < budget < 1:
                raise UserError(f"the budget is a share of SE's {total:,} parameters, between 0 and 1; got {budget:g}")
            goal = {"parameters": int(budget * total)}
        else:
            hidden = uniform_units(subject.model, reduction)
            goal = {"hidden": hidden} if uniform else {"parameters": parameters_at(subject.model, hidden)}
        report = drop_hidden_units(subject.model, lambda: subject.losses(images), rounds=rounds, **goal)
    except ValueError as error:
        raise UserError(f"{subject.weights}: {error}") from error
    return report.as_dict()


def choose_ratios(
    subject: Subject,
    output: Path,
    budget: float,
    calibration: int = IMAGES,
    fine_tune: Sequence[str] | None = None,
    rounds: int = 15,
) -> dict:
    """Drops hidden units down to a budget, writes what is left, and trains it on where that is asked for.

    Args:
        output: of the cut checkpoint, NAME.pth; beside it NAME.yaml, NAME.json and NAME.png, and NAME, the run in which
            it is trained on.
        budget: SE's parameters that stay, of those that there are.
        calibration: images of the training split.
        fine_tune: KEY VALUE words of that run; None: it is not trained on. A run that was cut off goes on.
        rounds: of the times that are measured.

    Returns:
        the report, which is NAME.json: "before", "after" the cut, and with a run "fine_tuned".

    Raises:
        UserError: as ``ratios``, and as every training.
    """
    subject.check_output(output)
    before = subject.evaluate()
    told = ratios(subject, budget=budget, images=calibration)
    report = report_of(subject, "ratios", before, subject.evaluate(), rounds, budget=budget, ratios=told)
    write_result(subject, output, report, lambda path: draw_units(told, path))
    if fine_tune is None:
        return report
    report |= train_on(subject, output, fine_tune)
    write_json(output.with_suffix(".json"), report)
    return report


def describe(report: dict, label: str) -> str:
    """The report in lines. ``label``: what the figure is called."""
    told = report["ratios"]
    lines = [
        f"SE's parameters: {told['parameters_before']:,} before, {told['parameters']:,} after, a budget of "
        f"{report['budget']:g}; loss over {told['images']:,} images {told['loss_before']:.4f} before, "
        f"{told['loss']:.4f} after",
        f"  {'gate':16}{'stage':10}{'channels':>9}{'units':>12}{'C / units':>11}",
    ]
    for gate in told["gates"]:
        units = f"{gate['before']} -> {gate['after']}"
        lines.append(f"  {gate['name']:16}{gate['stage']:10}{gate['channels']:9}{units:>12}{gate['reduction']:11.1f}")
    lines.append(describe_change(report, label))
    if tuned := report.get("fine_tuned"):
        lines.append(
            f"trained on: {label} {tuned['value']:.2f} ± {tuned['standard_error']:.2f}, {report['fine_tuned_weights']}"
        )
    return "\n".join(lines)
