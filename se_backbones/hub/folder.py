"""``save_pretrained``, ``from_pretrained`` and ``push_to_hub``: a network as a folder, here or on the Hugging Face hub.

huggingface_hub's own mixin is not used: it is a base class, so that the networks would need that package; it takes a
config from the arguments of the constructor, so that a network into which gates were put comes back without them; and
that goes unnoticed, for it loads with ``strict=False``.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from se_backbones.backbone import Backbone
from se_backbones.create import create_backbone
from se_backbones.errors import WeightsError
from se_backbones.files import atomic_path, write_atomically
from se_backbones.hub.card import model_card
from se_backbones.hub.config import FORMAT, NetworkConfig, differences, outputs_of, read_json
from se_backbones.preprocessing import Preprocessing
from se_backbones.registry import shapes_of
from se_backbones.weights.formats.own_format import WEIGHTS_FORMAT
from se_backbones.weights.formats.safetensors_file import tensors_sha256, write_safetensors
from se_backbones.weights.layouts import OURS
from se_backbones.weights.report import as_json
from se_backbones.weights.sources.named import hub_file
from se_backbones.weights.target import Target
from se_backbones.weights.weights_file import WeightsFile, read_state_dict

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def save_pretrained(
    network: nn.Module,
    folder: str | os.PathLike,
    *,
    preprocessing: Preprocessing | Mapping | None = None,
    classes: Sequence[str] | None = None,
    about: str = "",
    license: str = "",
    name: str = "",
) -> Path:
    """Writes a network into a folder as ``from_pretrained`` takes it.

    ``model.safetensors`` has the weights, and what ``load_weights`` must know of them; ``config.json`` rebuilds the
    network; ``README.md`` is its model card. A card that is there stays as it is; weights and config are replaced.

    Args:
        network: of ``create_backbone``, whatever was done to it since (SE put in or taken out, pruned, trained).
        folder: is made where it is missing.
        preprocessing: how images come; by default as for the weights that the network was created with.
        classes: the names of its outputs, in order; by default those of the weights that it was created with, if they
            are as many.
        about: for the card, in Markdown: the data, the figures, the limits.
        license: for the card, the license of the weights by its name on the hub: ``apache-2.0``.
        name: for the card, how it will be loaded: ``OWNER/NAME``; by default the folder.

    Returns:
        the folder.

    Raises:
        WeightsError: ``create_backbone`` would not build the network; classes are not as many as its outputs; the
            folder's config is another program's; or a tensor holds a number that is not finite. Nothing is written.
            A classifier of another size, put in the place of the first one, is none of these.
        OSError: the folder cannot be written to. What is there then is as it was, or does not load.
    """
    folder = Path(folder)
    if not isinstance(network, nn.Module):
        raise WeightsError(f"a network is saved, and this is a {type(network).__name__}")
    network = Target(network).model  # without wrappers
    if not isinstance(network, Backbone):
        raise WeightsError(
            f"a {type(network).__name__} is more than a network of create_backbone, and from_pretrained would not "
            "rebuild it; find_network(model) is the network in it"
        )
    report = network.weights_report
    if preprocessing is None and report is not None:
        preprocessing = report.preprocessing
    if classes is None and report is not None and len(report.classes or ()) == outputs_of(network) > 0:
        classes = report.classes
    preprocessing = None if preprocessing is None else Preprocessing.of(preprocessing)
    config = NetworkConfig.of(network, preprocessing, classes)
    if (folder / CONFIG).exists() and read_json(folder / CONFIG).get("format") != FORMAT:
        raise WeightsError(f"{folder / CONFIG}: is of another program; save into another folder")
    tensors = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    config = replace(config, tensors_sha256=tensors_sha256(tensors))
    card = model_card(network, config, name or os.fspath(folder), about, license)
    with atomic_path(folder / WEIGHTS) as temporary:
        write_safetensors(temporary, tensors, _metadata(config))
        try:
            read_state_dict(temporary)  # which compares the checksum, and looks at every number
        except WeightsError as error:
            raise WeightsError(str(error).replace(str(temporary), str(folder / WEIGHTS))) from None
    write_atomically(folder / CONFIG, config.as_json() + "\n")
    if not (folder / CARD).exists():
        write_atomically(folder / CARD, card)
    return folder


def from_pretrained(
    source: str | os.PathLike, *, revision: str | None = None, token: str | bool | None = None, **settings
) -> Backbone:
    """A network that ``save_pretrained`` or ``push_to_hub`` wrote, with its weights, in eval mode.

    Args:
        source: the folder; or ``OWNER/NAME``, a repository of the Hugging Face hub, of which the config and the
            weights are fetched, once, into the hub's cache. Nothing in them is run. ``hf://OWNER/NAME`` is the
            repository where there is a folder of this name too.
        revision, token: of the repository: a branch, tag or commit; what a private one asks for.
        settings: of ``create_backbone``, in place of the config's: ``num_classes=5`` for a new classifier,
            ``num_classes=0`` for maps alone, ``freeze_at=2``.

    Returns:
        the network. Its ``weights_report`` is the account of all names, with preprocessing and classes.

    Raises:
        WeightsError: it is not there, damaged, another program's, or the weights are not those of the config.
        ValueError: settings that ``create_backbone`` refuses.
    """
    config_path, weights_path = _files(os.fspath(source), revision=revision, token=token)
    config = NetworkConfig.read(config_path)
    weights = replace(read_state_dict(weights_path), source=os.fspath(source))
    _check_pair(config, config_path, weights)
    network = create_backbone(config.architecture, pretrained=weights, **{**config.settings, **settings})
    return network.eval()


def _files(source: str, **options) -> tuple[Path, Path]:
    """config.json and model.safetensors of a folder, or out of the hub's cache."""
    place, repository = Path(source).expanduser(), source.removeprefix("hf://")
    if place.is_dir():
        return place / CONFIG, place / WEIGHTS
    if place.is_file():
        raise WeightsError(
            f"{source}: is a file, and from_pretrained takes the folder that save_pretrained wrote. A file of weights "
            "is for create_backbone(NAME, pretrained=FILE)"
        )
    if not _REPOSITORY.fullmatch(repository):
        raise WeightsError(f"{source}: no such folder; a repository of the Hugging Face hub is named OWNER/NAME")
    said = source if source != repository else f"{source}, no folder here and so a repository of the Hugging Face hub"
    config, weights = (hub_file(repository, said, (file,), **options) for file in (CONFIG, WEIGHTS))
    return config, weights


def push_to_hub(
    network: nn.Module,
    repository: str,
    *,
    preprocessing: Preprocessing | Mapping | None = None,
    classes: Sequence[str] | None = None,
    about: str = "",
    license: str = "",
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    message: str = "Save the network",
) -> str:
    """Writes a network as ``save_pretrained`` does into a repository of the Hugging Face hub, in one commit. A model
    card that is there stays as it is.

    Args:
        network, preprocessing, classes, about, license: as for ``save_pretrained``.
        repository: ``OWNER/NAME``; is made where it is missing.
        private: of a new repository; None: as its owner has it by default.
        revision: the branch, ``main`` by default.
        token: by default that of ``hf auth login``.
        message: of the commit.

    Returns:
        the commit's address.

    Raises:
        WeightsError: as for ``save_pretrained``, and nothing is sent; huggingface_hub is not installed; or the hub
            refuses, or cannot be reached: the message says why.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise WeightsError("push_to_hub needs `pip install huggingface_hub`") from None
    said = {"preprocessing": preprocessing, "classes": classes, "about": about, "license": license}
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(network, folder, **said, name=repository)
        try:
            api = HfApi(token=token)
            repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
            has_card = api.file_exists(repository, CARD, revision=revision)
            return str(
                api.upload_folder(
                    repo_id=repository,
                    folder_path=folder,
                    revision=revision,
                    commit_message=message,
                    ignore_patterns=[CARD] if has_card else None,
                )
            )
        except Exception as error:  # the hub's client raises its own, requests', httpx's and OSError
            reason = f"{type(error).__name__}: {str(error).strip()}"
            raise WeightsError(f"{repository}: could not be written on the Hugging Face hub. {reason}") from error


def _check_pair(config: NetworkConfig, path: Path, weights: WeightsFile) -> None:
    """Whether a config is that of the weights beside it. Nothing is built in memory of what it says before."""
    if weights.metadata.get("tensors_sha256") != config.tensors_sha256:
        raise WeightsError(
            f"{path}: is not of the {WEIGHTS} beside it (the checksums differ): one of the two was replaced, or a save "
            "was interrupted. Save or fetch both again"
        )
    for name, here, there in (
        ("preprocessing", config.preprocessing, weights.preprocessing),
        ("classes", config.classes, None if weights.classes is None else tuple(weights.classes)),
    ):
        if here != there:
            raise WeightsError(
                f"{path}: its {name} are not those that {WEIGHTS} states. To change them, load the network before and "
                f"save it with save_pretrained(network, folder, {name}=…)"
            )
    try:
        wrong = differences(config.shapes(), shapes_of(weights.ours()))
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    if wrong:
        raise WeightsError(f"{path}: is of another network than {WEIGHTS} holds: {', '.join(wrong[:6])} differ")


def _metadata(config: NetworkConfig) -> dict[str, str]:
    """What the weights say of themselves, as ``convert_file`` writes it, so that they load without the config too."""
    values = {
        "format": WEIGHTS_FORMAT,
        "layout": OURS,
        "architecture": config.architecture,
        "torch": torch.__version__.split("+")[0],
    }
    said = {
        "preprocessing": config.preprocessing and config.preprocessing.as_dict(),
        "classes": config.classes,
        "se": config.se and asdict(config.se),
        "widths": config.widths,
    }
    return values | {name: as_json(value) for name, value in said.items() if value}
