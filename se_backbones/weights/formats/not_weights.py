"""What lies in a weights file's place: a pointer, a web page, an error's text, an archive, a picture."""

from __future__ import annotations

import pickletools
from pathlib import Path

_TEXTS = (  # how they begin, in lower case
    (
        (b"version https://git-lfs", b"version https://hawser"),
        "It is a Git LFS pointer: the weights themselves were not fetched (`git lfs pull`).",
    ),
    ((b"/annex/objects/", b"../.git/annex/"), "It is a git-annex pointer: the weights were not fetched."),
    ((b"# xet version",), "It is a Xet pointer: the weights themselves were not fetched."),
    (
        (b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--"),
        "It is a web page, saved in the place of the file: fetch it again.",
    ),
)
_BINARIES = (
    (b"\x1f\x8b", "It is packed with gzip: unpack it first (`gunzip`)."),
    (b"BZh", "It is packed with bzip2: unpack it first (`bunzip2`)."),
    (b"\xfd7zXZ\x00", "It is packed with xz: unpack it first (`unxz`)."),
    (b"\x28\xb5\x2f\xfd", "It is packed with zstd: unpack it first (`unzstd`)."),
    (b"7z\xbc\xaf\x27\x1c", "It is a 7z archive: unpack it first."),
    (b"Rar!", "It is a RAR archive: unpack it first."),
    (b"\x89HDF\r\n", "It is HDF5, as Keras writes, and no weights for PyTorch."),
    (b"\x93NUMPY", "It is a single NumPy array, and weights are arrays by name."),
    (b"GGUF", "It is GGUF, for language models."),
    (b"\x89PNG", "It is a picture."),
    (b"\xff\xd8\xff", "It is a picture."),
    (b"%PDF", "It is a PDF document."),
)
_FIRST_INSTRUCTIONS = tuple(bytes([first]) for first in b"(])}cdlFILNSTUVX")
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")  # of UTF-8 and UTF-16


def what_it_is_instead(head: bytes) -> str:
    """A sentence on what a file is that begins with these bytes (some hundred), where it is known and no weights; else
    an empty text."""
    if not head.strip(b"\0"):
        return "It begins with zeros alone: a download that was not finished, say. Fetch it again."
    for start, sentence in _BINARIES:
        if head.startswith(start):
            return sentence
    text = _as_text(head)
    begin = text.lstrip().lower().encode("utf-8", "replace")
    for starts, sentence in _TEXTS:
        if begin.startswith(starts):
            return sentence
    return ""


def as_text(head: bytes) -> str:
    """A sentence with the first line of a text, an error's message say; an empty text where these bytes are none."""
    text = _as_text(head).strip()
    line = text.splitlines()[0] if text else ""
    return f"It is a text, which begins: {line[:100]!r}." if line else ""


def _as_text(head: bytes) -> str:
    """The bytes as a text; an empty one where they are none."""
    wide = head.startswith(_MARKS[1:])
    try:
        text = head.removeprefix(_MARKS[0]).decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(head) - 3:  # else a letter cut in two
            return ""
        text = head[: error.start].removeprefix(_MARKS[0]).decode("utf-16" if wide else "utf-8", "ignore")
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else ""


def is_text_pickle(path: Path) -> bool:
    """Whether a whole file is one pickle of protocol 0 or 1, which begin with no number of a protocol."""
    end = None
    with open(path, "rb") as file:
        if file.read(1) not in _FIRST_INSTRUCTIONS:
            return False
        file.seek(0)
        try:
            for instruction, _, place in pickletools.genops(file):
                end = place if instruction.name == "STOP" else None
        except Exception:  # ValueError, IndexError, UnicodeDecodeError, struct.error, …: something else
            return False
        return end is not None and not file.read(1)
