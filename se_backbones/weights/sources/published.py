"""Where the ImageNet weights of each architecture are published."""

from __future__ import annotations

from se_backbones.errors import WeightsError
from se_backbones.registry import family_of, find_spec


def published_weights(architecture: str) -> str:
    """The named source of an architecture's ImageNet weights, for ``load_weights``.

    Raises:
        ValueError: an unknown architecture.
        WeightsError: none are published; names the variant that has some, where there is one.
    """
    published = family_of(find_spec(architecture)).published
    if architecture in published:
        return published[architecture]
    variants = [name for name in published if name.startswith(f"{architecture}_")]
    hint = f" The variant {variants[0]} has some." if variants else ""
    raise WeightsError(f"no ImageNet weights are published for {architecture}.{hint} Give a file, or train without.")
