"""Where weights come from: a file, or a name that a release is known by."""

from __future__ import annotations

import difflib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from se_backbones.errors import WeightsError
from se_backbones.files import atomic_path
from se_backbones.preprocessing import Preprocessing

TIMEOUT = 30  # seconds without an answer
DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as the Hugging Face hub's repositories call them
SCHEMES = ("timm", "torchvision", "detectron2", "hf")


@dataclass
class SourceFile:
    """A file on this machine, and what the release says about it.

    Attributes:
        path: the file.
        preprocessing, classes: as the release's own table states them; None where it does not.
        network: what the release calls the network.
        part: a name inside the file, from ``FILE#part``.
    """

    path: Path
    preprocessing: Preprocessing | None = None
    classes: list[str] | None = None
    author: str = ""
    network: str = ""
    part: str = ""
    notes: list[str] = field(default_factory=list)


def locate(source: str | os.PathLike) -> SourceFile:
    """Finds a source's file, fetching it where it is named by its release.

    Args:
        source: a path; ``FILE#part`` for a part of a file (``#state_dict_ema``); ``timm://NAME``,
            ``torchvision://NAME`` or ``torchvision://NAME.VARIANT``, ``detectron2://PATH``, ``hf://OWNER/NAME``, a
            repository of the Hugging Face hub.

    Raises:
        WeightsError: no such file or name, the package that knows it is not installed, or it cannot be
            fetched. The message says what was tried and how to give a file in its place.
    """
    text = os.fspath(source)
    if not text:
        raise WeightsError(f"no weights are named: give a file, or {', '.join(f'{known}://NAME' for known in SCHEMES)}")
    scheme, mark, name = text.partition("://")
    if mark:
        if scheme not in SCHEMES:
            raise WeightsError(
                f"{text}: sources are a file, or {', '.join(f'{known}://NAME' for known in SCHEMES)}. "
                "Anything else on the network: fetch it first and name the file"
            )
        releases = {"timm": _timm, "torchvision": _torchvision, "detectron2": _detectron2, "hf": _hugging_face}
        return releases[scheme](name, text)
    path = Path(text).expanduser()
    part = ""
    if not _exists(path) and "#" in path.name:
        stem, part = text.rsplit("#", 1)
        path = Path(stem).expanduser()
    if not _exists(path):
        raise WeightsError(f"{path}: no such file.{_near_file(path)}")
    return SourceFile(path, part=part)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    near = difflib.get_close_matches(path.name, [item.name for item in path.parent.iterdir()], n=3, cutoff=0.5)
    return f" Nearest in that folder: {', '.join(near)}." if near else ""


def _unavailable(text: str, tried: str, reason: str) -> WeightsError:
    return WeightsError(
        f"{text}: cannot be had. Tried: {tried}. Reason: {reason}. Without a network, fetch the file on "
        "another machine and give its path in place of the name (a .safetensors or .pth file of the same "
        "weights)"
    )


def _timm(name: str, text: str) -> SourceFile:
    try:
        import timm
        from timm.models import get_pretrained_cfg
    except ImportError:
        raise _unavailable(text, "import timm", "timm is not installed (`pip install timm`)") from None
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    if config is None:
        near = difflib.get_close_matches(name, timm.list_models(pretrained=True), n=4, cutoff=0.4)
        raise WeightsError(f"{text}: timm {timm.__version__} knows no weights of that name; nearest: {', '.join(near)}")
    about = {
        "preprocessing": Preprocessing("RGB", 1, config.mean, config.std),
        "author": "timm",
        "network": config.architecture,
    }
    if config.hf_hub_id:
        # As timm does: an id that ends in a slash is an organisation, and the file's own name follows.
        repository = config.hf_hub_id
        if repository.endswith("/"):
            repository += f"{config.architecture}.{config.tag}" if config.tag else config.architecture
        return SourceFile(hub_file(repository, text), **about)
    if config.url:
        return SourceFile(_fetch(config.url, text), **about)
    raise WeightsError(f"{text}: timm has no released weights under this name")


def _hugging_face(name: str, text: str) -> SourceFile:
    return SourceFile(hub_file(name, text))


def hub_file(repository: str, text: str, filenames: Sequence[str] = HUB_FILES, **options) -> Path:
    """A file of a repository of the Hugging Face hub, out of the hub's cache or fetched into it.

    Args:
        repository: ``OWNER/NAME``.
        text: the source as it was named, for messages.
        filenames: the first of them that is there is taken.
        options: of ``huggingface_hub.hf_hub_download``: ``revision``, ``token``.

    Raises:
        WeightsError: huggingface_hub is not installed, or none of the files can be had; the message says why.
    """
    tried, reason = [], ""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import LocalEntryNotFoundError
    except ImportError:
        why = "it is not installed (`pip install huggingface_hub`; it comes with timm too)"
        raise _unavailable(text, "import huggingface_hub", why) from None
    for filename in filenames:
        tried.append(f"{repository}/{filename} on the Hugging Face hub")
        try:
            return Path(hf_hub_download(repository, filename, **options))
        except LocalEntryNotFoundError as error:
            reason = reason or _said(error)
            # Nobody answered, which took half a minute and would again: the other files can be in the cache alone.
            options["local_files_only"] = True
        except Exception as error:  # the hub's client raises its own, requests', httpx's and OSError
            reason = _said(error)
    raise _unavailable(text, " and ".join(tried), reason)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"


def _torchvision(name: str, text: str) -> SourceFile:
    try:
        from torchvision.models import get_model_weights, list_models
    except ImportError:
        raise _unavailable(text, "import torchvision", "torchvision is not installed") from None
    model, _, variant = name.partition(".")
    try:
        choices = get_model_weights(model)
        weights = choices[variant] if variant else choices.DEFAULT
    except ValueError:
        near = difflib.get_close_matches(model, list_models(), n=4, cutoff=0.4)
        raise WeightsError(f"{text}: torchvision knows no such network; nearest: {', '.join(near)}") from None
    except KeyError:
        names = ", ".join(item.name for item in choices)
        raise WeightsError(f"{text}: {model} has the weights {names}; not {variant}") from None
    transforms = weights.transforms()
    return SourceFile(
        _fetch(weights.url, text),
        preprocessing=Preprocessing("RGB", 1, transforms.mean, transforms.std),
        classes=list(weights.meta.get("categories", [])) or None,
        author="torchvision",
        network=model,
    )


def _detectron2(name: str, text: str) -> SourceFile:
    if ".." in name.split("/") or name.startswith("/"):
        raise WeightsError(f"{text}: a name such as detectron2://ImageNetPretrained/MSRA/R-50.pkl is expected")
    # Detectron2 keeps what it fetched here; a file that is there needs no network.
    cache = Path(os.environ.get("FVCORE_CACHE", "~/.torch/iopath_cache")).expanduser()
    for folder in (cache / "detectron2", cache):
        if (folder / name).is_file():
            return SourceFile(folder / name)
    return SourceFile(_fetch(DETECTRON2_URL + name, text))


def _fetch(url: str, text: str) -> Path:
    """Downloads a file once, into torch's folder for them; a download that breaks off leaves nothing."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    # Detectron2's files have the same short names in different folders (MSRA/R-50.pkl, torchvision/R-50.pkl).
    target = folder / (url.removeprefix(DETECTRON2_URL) if url.startswith(DETECTRON2_URL) else url.rsplit("/", 1)[-1])
    if target.is_file():
        return target
    try:
        with atomic_path(target) as part:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, open(part, "wb") as file:
                _copy_with_progress(answer, file, target.name)
                expected = answer.headers.get("Content-Length")
            if expected and int(expected) != part.stat().st_size:
                raise OSError(f"the connection ended after {part.stat().st_size:,} of {int(expected):,} bytes")
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise _unavailable(text, url, str(error)) from None
    return target


def _copy_with_progress(answer, file, name: str) -> None:
    try:
        from tqdm import tqdm
    except ImportError:
        shutil.copyfileobj(answer, file, 1 << 20)
        return
    total = int(answer.headers.get("Content-Length") or 0) or None
    with tqdm(total=total, unit="B", unit_scale=True, desc=name) as bar:
        while block := answer.read(1 << 20):
            file.write(block)
            bar.update(len(block))
