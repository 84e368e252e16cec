"""One way to open a weights file. What the file is, its bytes say, not its name; and no file runs code."""

from __future__ import annotations

import hashlib
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from se_backbones.errors import WeightsError
from se_backbones.weights.formats.caffemodel import (
    begins_with_a_name,
    caffe_state_dict,
    looks_like_caffemodel,
    read_caffemodel,
)
from se_backbones.weights.formats.not_weights import as_text, is_text_pickle, what_it_is_instead
from se_backbones.weights.formats.numpy_pickle import read_numpy_pickle
from se_backbones.weights.formats.safetensors_file import looks_like_safetensors, read_safetensors
from se_backbones.weights.formats.torch_file import LEGACY_MAGIC, read_torch_file

# The convention of torch.hub and of most released files: resnet50-0676ba61.pth. Digits alone may be a date. With
# another count than torch.hub's eight they may be something else (timm's seresnext26_32x4d-65ebdb501, senet.pytorch's
# seresnet50-60a8950a85b2b).
_NAME_HASH = re.compile(r"-((?=[0-9]*[a-f])[0-9a-f]{8,64})\.[A-Za-z0-9.]+$")

_SUFFIXES = (".pth", ".safetensors", ".pkl", ".caffemodel")


@dataclass
class SafeFile:
    """A file's content and where it came from.

    Attributes:
        content: dictionaries, lists, numbers, text, and tensors on the CPU.
        metadata: the text fields of a safetensors header; empty for other forms.
        form: ``safetensors``, ``torch``, ``pickle`` or ``caffemodel``.
    """

    path: Path
    content: object
    form: str
    metadata: dict[str, str] = field(default_factory=dict)


def load_safely(path: str | Path):
    """The content of a .safetensors, .pth, .pkl or .caffemodel file, as torch.load would give it; none of it is run.

    Args:
        path: a file. Which form it has is told from its bytes, whatever its suffix (.pth, .pth.tar, .pt,
            .bin, …).

    Returns:
        plain dictionaries, lists, tuples, numbers and text, and tensors on the CPU; of a .caffemodel what
        ``caffe_state_dict`` makes of it.

    Raises:
        WeightsError: no such file; it is cut or damaged; it asks for anything but tensors, arrays and plain
            values; or it is of a form that holds programs (TorchScript) or that nobody should use any more
            (tar).
    """
    return open_safely(path).content


def open_safely(path: str | Path) -> SafeFile:
    """As load_safely, with the form and the metadata."""
    path = Path(path)
    head = _first_bytes(path)
    if instead := what_it_is_instead(head):
        raise WeightsError(f"{path}: not a weights file. {instead}")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return SafeFile(path, read_torch_file(path), "torch")
    if head.startswith(LEGACY_MAGIC) and not tarfile.is_tarfile(path):
        return SafeFile(path, read_torch_file(path), "torch")
    if looks_like_caffemodel(head):
        return _open_caffemodel(path)
    if looks_like_safetensors(head):
        tensors, metadata = read_safetensors(path)
        return SafeFile(path, tensors, "safetensors", metadata)
    if tarfile.is_tarfile(path):
        raise WeightsError(f"{path}: a tar archive (torch's form of 2016), which is not read; save it anew with torch")
    if head.startswith(b"\x80") or is_text_pickle(path):
        return SafeFile(path, read_numpy_pickle(path), "pickle")
    if begins_with_a_name(head):
        return _open_caffemodel(path)  # which says what is wrong with it
    raise WeightsError(
        f"{path}: not a weights file. {as_text(head)} A .safetensors, a .pth of torch.save, a .pkl of arrays or a "
        ".caffemodel is expected, told from its bytes whatever its name.".replace("  ", " ")
    )


def _first_bytes(path: Path) -> bytes:
    """Raises WeightsError where it is no file that has any."""
    try:
        if path.is_dir():
            inside = ", ".join(sorted(p.name for p in path.iterdir() if p.suffix in _SUFFIXES)[:6])
            raise WeightsError(f"{path} is a folder; name a file in it" + (f": {inside}" if inside else ""))
        if path.exists() and not path.is_file():
            raise WeightsError(f"{path}: no regular file")  # a pipe would be waited for, a device has no end
        with open(path, "rb") as file:
            head = file.read(1024)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except WeightsError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise WeightsError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not head:
        raise WeightsError(f"{path}: the file is empty")
    return head


def _open_caffemodel(path: Path) -> SafeFile:
    return SafeFile(path, caffe_state_dict(read_caffemodel(path), str(path)), "caffemodel")


def file_sha256(path: str | Path) -> str:
    """The file's checksum, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_name_hash(path: str | Path, sha256: str) -> str:
    """Compares the first digits of the checksum that a released file's name carries with the file's own.

    Returns:
        what is to be said of digits that differ and need not be a checksum; else empty.

    Raises:
        WeightsError: they differ: the file is damaged, or is not what its name says.
    """
    found = _NAME_HASH.search(Path(path).name)
    if not found or sha256.startswith(found[1]):
        return ""
    if 8 < len(found[1]) < 16:
        return f"the {found[1]} in its name is not how its sha256 begins ({sha256[:16]}…); it may mean something else"
    raise WeightsError(
        f"{path}: its name promises a sha256 that begins with {found[1]}, and it is {sha256[:16]}…: "
        "the file is damaged or not the one released. Fetch it again, or rename it if the name means "
        "something else"
    )
