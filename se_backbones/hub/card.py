"""The model card, README.md: what the network is, how images come, how it is loaded."""

from __future__ import annotations

import json
import re

from se_backbones.backbone import Backbone
from se_backbones.errors import WeightsError
from se_backbones.hub.config import NetworkConfig
from se_backbones.registry import find_spec
from se_backbones.text import markdown, markdown_table, writable

_SHOWN = 20  # classes; config.json has them all
_PAPER = "[Squeeze-and-Excitation Networks](https://arxiv.org/abs/1709.01507)"


def model_card(network: Backbone, config: NetworkConfig, name: str, about: str = "", license: str = "") -> str:
    """The text of README.md, with the hub's metadata at its head.

    Args:
        name: the folder or repository, as it is loaded.
        about: what the user says of it, in Markdown: data, figures, limits.
        license: of the weights, by its name on the hub; empty: none is stated.

    Raises:
        WeightsError: a license that is no name.
    """
    if license and not re.fullmatch(r"[a-z0-9][a-z0-9.+_-]*", license):
        raise WeightsError(f"license must be a name as the hub has them, as in 'apache-2.0'; got {license!r}")
    task = "image-classification" if config.num_classes else "image-feature-extraction"
    head = ["library_name: se-backbones", f"pipeline_tag: {task}", "tags:", "- squeeze-and-excitation"]
    head += [f"license: {license}"] if license else []
    parameters = sum(parameter.numel() for parameter in network.parameters())
    maps = [f"{key}: {c} channels, stride {s}" for key, (c, s) in network.feature_info.items()]
    rows = [
        ("network", f"`{config.architecture}`, {markdown(_se(config))}"),
        ("parameters", f"{parameters / 1e6:.2f} M"),
        ("maps", markdown(", ".join(maps))),
        ("images", markdown(str(config.preprocessing or "not stated"))),
        ("outputs", markdown(_outputs(config))),
    ]
    use = [
        "```python",
        "from se_backbones import from_pretrained",
        "",
        f"network = from_pretrained({json.dumps(name)})",
        *(["logits = network(images)"] if config.num_classes else []),
        "maps = network.forward_features(images)",
        "```",
    ]
    parts = [
        "\n".join(["---", *head, "---"]),
        f"# {markdown(name)}",
        markdown_table(("", ""), rows),
        *([about.strip()] if about.strip() else []),
        f"## Use\n\n{_images(config)}\n\n" + "\n".join(use),
        f"The network is of {_PAPER} (Hu, Shen and Sun, CVPR 2018)." if config.se else "",
    ]
    return writable("\n\n".join(part for part in parts if part) + "\n")


def _se(config: NetworkConfig) -> str:
    pruned = ", pruned" if config.widths else ""
    if config.se is None:
        return f"without squeeze-and-excitation{pruned}"
    row, se = find_spec(config.architecture), config.se
    changed = "" if row.with_se(row.se) == row.with_se(se) else ", not its usual settings (all in config.json)"
    return (
        f"squeeze-and-excitation with reduction {se.reduction}, placement {se.placement}, squeeze {se.squeeze}, gate "
        f"{se.gate}{changed}{pruned}"
    )


def _outputs(config: NetworkConfig) -> str:
    if not config.num_classes:
        return "maps alone"
    if config.classes is None:
        return f"{config.num_classes} classes, whose names are not stated"
    more = f", … (all {len(config.classes)} are in config.json)" if len(config.classes) > _SHOWN else ""
    return ", ".join(config.classes[:_SHOWN]) + more


def _images(config: NetworkConfig) -> str:
    if config.preprocessing is None:
        return "`images`: (N, 3, H, W); how they were prepared is not stated."
    p = config.preprocessing
    return (
        f"`images`: (N, 3, H, W), channels in the order {p.channel_order}, pixels of 0 to {p.scale:g}, less the mean "
        f"{list(p.mean)}, over the standard deviation {list(p.std)}."
    )
