"""Fonts that have the characters of a name."""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from PIL import ImageFont

from engine.names import class_name

logger = logging.getLogger(__name__)

# Matplotlib's own copy of DejaVu Sans: present wherever we run, with accents, Greek, Cyrillic, Arabic and Hebrew.
DEFAULT_FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
# Fonts that have every character, as a box or as nothing.
_EMPTY_FONTS = ("lastresort", "adobeblank", "notdef", "tofu")
_PREFERRED = ("sanscjk", "notosans", "wqy", "sourcehansans", "gothic", "sans")  # the first that a name has counts
_VARIANTS = frozenset(map(chr, range(0xFE00, 0xFE10)))  # which choose among forms of the sign before them


def drawable(name: object) -> tuple[str, Path]:
    r"""A name as it can be drawn, and the font to draw it in.

    The font is matplotlib's DejaVu Sans where that has all of the name's characters, else the installed one that has
    most of them. What that lacks too is spelled ``\u732b``, and the log says so once.
    """
    text = "".join(map(_visible, class_name(str(name))))
    wanted = set(text)
    font = DEFAULT_FONT if wanted <= _characters(DEFAULT_FONT) else _font_for(frozenset(wanted))
    missing = wanted - _characters(font)
    if missing:
        _say_once()
        text = "".join(ascii(sign)[1:-1] if sign in missing else sign for sign in text)
    return text, font


def plot_texts(names: Iterable[object]) -> tuple[list[str], dict]:
    """Names as matplotlib can draw them, and the keywords of the text: fonts that have their characters, and no
    formulas, which names with $ or _ would be taken for."""
    from matplotlib import font_manager

    texts, families = [], ["DejaVu Sans"]
    for text, font in map(drawable, names):
        texts.append(text)
        if font != DEFAULT_FONT:
            font_manager.fontManager.addfont(str(font))
            families.append(font_manager.FontProperties(fname=str(font)).get_name())
    return texts, {"fontfamily": list(dict.fromkeys(families)), "parse_math": False}


def _visible(sign: str) -> str:
    kind = unicodedata.category(sign)
    return " " if kind == "Zs" else "" if kind == "Cf" or sign in _VARIANTS else sign


@functools.lru_cache(maxsize=1024)
def _font_for(wanted: frozenset[str]) -> Path:
    """The first installed font that has all of some characters, or most of them; ours, where none has more than it.
    It must have ASCII too: the rest of the name, and numbers."""
    best, count = DEFAULT_FONT, len(wanted & _characters(DEFAULT_FONT))
    for font in _installed_fonts():
        characters = _characters(font)
        found = len(wanted & characters) if "0" in characters and "a" in characters else 0
        if found > count and _draws(font, next(iter(wanted & characters))):
            best, count = font, found
        if count == len(wanted):
            break
    return best


@functools.lru_cache(maxsize=1)
def _installed_fonts() -> list[Path]:
    from matplotlib import font_manager  # only now: it lists all fonts, which takes a while

    def rank(font: Path) -> tuple:
        name = font.stem.lower().replace("-", "").replace("_", "")
        known = next((place for place, word in enumerate(_PREFERRED) if word in name), len(_PREFERRED))
        return known, "bold" not in name, "italic" in name or "oblique" in name, str(font)

    fonts = map(Path, font_manager.findSystemFonts())
    usable = (font for font in fonts if not any(word in font.stem.lower() for word in _EMPTY_FONTS))
    return sorted(usable, key=rank)


@functools.lru_cache(maxsize=2048)
def _characters(font: Path) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(str(font)).get_charmap()))
    except Exception:  # damaged, or of a kind that FreeType does not know
        return frozenset()


def _draws(font: Path, sign: str) -> bool:
    """Whether a font has an outline of a character, at any size; those of coloured signs alone have not."""
    try:
        return ImageFont.truetype(str(font), 23).getmask(sign).getbbox() is not None
    except Exception:  # "invalid pixel size", for one of pictures of one size
        return False


@functools.lru_cache(maxsize=1)
def _say_once() -> None:
    logger.warning(
        "no font installed here has all characters of the names that are drawn: those that are missing are spelled, "
        "as \\u732b. Install one, such as Noto Sans CJK (the package fonts-noto-cjk)"
    )
