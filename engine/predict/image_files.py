"""Which files are taken for pictures in a folder, and what is said of the others."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Mapping

from PIL import Image, features

from engine.names import printable

with contextlib.suppress(ImportError):  # Pillow reads HEIC with it, and has no reader of its own
    from pillow_heif import register_heif_opener

    register_heif_opener()

#: Pillow's names of the kinds of picture that are looked for. It opens others, which are no photographs (icons, vector
#: graphics, films, tables of numbers).
FORMATS = "JPEG MPO PNG GIF BMP DIB TIFF WEBP PPM JPEG2000 AVIF HEIF QOI TGA".split()
_CODECS = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}  # that Pillow may have been built without
_NOT_TAKEN = {".pfm"}  # floats of unknown range
_UNMARKED = {"DIB", "TGA"}  # kinds that the first bytes do not tell


def _suffixes() -> frozenset[str]:
    Image.init()
    readable = {
        name for name in FORMATS if name in Image.OPEN and (name not in _CODECS or features.check(_CODECS[name]))
    }
    readable |= {"MPO"}  # by JPEG's reader
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable) - _NOT_TAKEN


#: What names of pictures end with, in lower case: all that the reader reads here.
IMAGE_SUFFIXES = _suffixes()
_TOLD_BY_BYTES = [name for name in FORMATS if name in Image.OPEN and name not in _UNMARKED]

# What lies beside pictures and is none: it is counted, and nobody is warned of it.
_BESIDE_PICTURES = frozenset(
    ".txt .md .rst .log .ini .cfg .url .lnk .html .htm .css .js .json .jsonl .xml .xmp .csv .tsv .yaml .yml .toml .lst "
    ".idx .rec .db .sqlite .npy .npz .mat .pkl .pickle .pt .pth .h5 .hdf5 .parquet .arrow .zip .tar .gz .tgz .bz2 .xz "
    ".7z .rar .md5 .sha1 .sha256 .pdf .doc .docx .xls .xlsx .py .pyc .ipynb .sh .wav .mp3".split()
)
# What systems leave in folders, in lower case: passed over without a word, as hidden files are.
_CLUTTER = frozenset(
    ["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found", "$recycle.bin",
     "system volume information"]
)  # fmt: skip
WITHOUT_SUFFIX = "without suffix"
_MAX_SUFFIX = 16  # characters; what follows the last dot may be the end of a sentence
_SHOWN = 10


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or what a system leaves everywhere (``Thumbs.db``)."""
    return name.startswith(".") or name.lower() in _CLUTTER


def is_picture(path: str | os.PathLike, content: Callable[[], bytes] | None = None) -> bool:
    """Whether a file is taken for a picture: by its suffix, in any case, or by its content where it has no suffix.

    Args:
        content: reads it, where it is no file of its own.
    """
    suffix = _suffix(os.path.basename(path))
    if suffix:
        return suffix in IMAGE_SUFFIXES
    if content is not None:
        return _opens(io.BytesIO(content()))
    return os.path.isfile(path) and _opens(path)  # a pipe would be waited for


def kind_passed_over(name: str) -> str:
    """What a file of this name that is no picture is counted under: its suffix in lower case, or "without suffix"."""
    return _suffix(name) or WITHOUT_SUFFIX


def perhaps_pictures(passed_over: Mapping[str, int]) -> int:
    """How many of the files that were passed over may be pictures: all that are not of a kind that usually lies beside
    pictures, such as ``.txt``."""
    return sum(count for kind, count in passed_over.items() if kind not in _BESIDE_PICTURES and kind != WITHOUT_SUFFIX)


def describe_passed_over(passed_over: Mapping[str, int]) -> str:
    """Counts as words, the largest first: "4 .heic, 1 .txt"; empty for none."""
    order = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    words = ", ".join(f"{count:,} {printable(kind)}" for kind, count in order[:_SHOWN])
    rest = sum(count for _, count in order[_SHOWN:])
    return words + (f", {rest:,} others" if rest else "")


def _suffix(name: str) -> str:
    """In lower case, with its dot; empty where there is none: the last dot of ``IMG.2024.05`` and of ``Mt. Fuji at
    dawn`` begins none."""
    suffix = os.path.splitext(name)[1].lower()
    return "" if len(suffix) > _MAX_SUFFIX or " " in suffix.strip() or suffix[1:].isdigit() or suffix == "." else suffix


def _opens(file: str | os.PathLike | io.BytesIO) -> bool:
    """Whether Pillow finds the head of a picture in a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_TOLD_BY_BYTES):
                return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # a file of any other content makes Pillow's readers raise almost anything
        return False
