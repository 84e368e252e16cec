"""A reduction ratio for every gate under a budget: what ``tools/slim.py ratios`` and a study's rows do to a network."""

from __future__ import annotations

from engine.errors import UserError
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
