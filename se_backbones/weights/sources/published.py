"""Where the ImageNet weights of each architecture are published."""

from __future__ import annotations

from se_backbones.errors import WeightsError
from se_backbones.registry import family_of, find_spec, list_backbones


def published_weights(architecture: str) -> str:
    """The named source of an architecture's ImageNet weights, for ``load_weights``.

    Raises:
        ValueError: an unknown architecture.
        WeightsError: none are published; names the networks that have some, its own variants first.
    """
    family = family_of(find_spec(architecture))
    if architecture in family.published:
        return family.published[architecture]
    variants = [name for name in family.published if name.startswith(f"{architecture}_")]
    hint = f" The variant {variants[0]} has some." if variants else ""
    others = (
        f"Of its family, {', '.join(family.published)} have some."
        if family.published
        else (f"Networks that have some are {', '.join(list_backbones(pretrained=True))}.")
    )
    raise WeightsError(
        f"no ImageNet weights are published for {architecture}.{hint} {others} Give a file, or train without."
    )
