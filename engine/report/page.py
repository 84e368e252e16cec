"""Pages, and numbers, times, tables and pictures as they show them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from engine.images.by_pillow import opened
from se_backbones.text import writable

# Characters that no HTML may have, a name's escape sequences say (HTML Living Standard, 13.2.3.5).
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\f\r"}

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)


def render(template: str, **values: object) -> str:
    """A page made of one of the templates beside this file."""
    return writable(_TEMPLATES.get_template(template).render(values)).translate(_CONTROLS)


def number(value, digits: int = 1) -> str:
    """A figure as text; a dash where there is none: None, NaN, and -1, which stands for a percentage of
    nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value == -1:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 48 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], digits: int = 2) -> dict:
    """A table: its "heads", "rows" of cells, and the attributes of its "columns"; those of numbers, or None, alone
    stand to the right."""
    numeric = [all(map(is_number, column)) for column in zip(*rows, strict=True)]
    cells = [[number(v, digits) if right else v for v, right in zip(row, numeric, strict=True)] for row in rows]
    columns = [Markup('class="number"') if right else "" for right in numeric]
    return {"heads": heads, "rows": cells, "columns": columns}


def bars(values: Iterable[tuple[str, object]]) -> list[tuple[str, str, str]]:
    """Percentages 0..100 as bars: (name, value or None) → (name, value as text, width of the bar in percent)."""
    shown = [(name, "–" if value is None else number(float(value)), value or 0.0) for name, value in values]
    return [(name, text, f"{min(max(float(value), 0.0), 100.0):.1f}") for name, text, value in shown]


@dataclass
class Picture:
    """A picture file inside a page.

    Attributes:
        name, stem: of the file.
        uri: its content, as a data URI.
        width, height: in pixels, as shown.
    """

    name: str
    stem: str
    uri: str
    width: int
    height: int


def read_picture(path: Path, max_side: int, quality: int) -> Picture:
    """A picture file, reduced to at most `max_side` pixels on its longer side.

    Drawings (PNG) stay PNG, in 128 colours, all else becomes JPEG of the given quality. Raises OSError or
    ValueError if it cannot be read.
    """
    with opened(path, max_pixels=0) as image:  # it is one of our own
        image.load()
        return embedded(image, path.name, max_side, quality, drawing=image.format == "PNG")


def embedded(image: Image.Image, name: str, max_side: int, quality: int, drawing: bool = False) -> Picture:
    """A picture in memory as `read_picture` gives it; `drawing`: as PNG."""
    image = image.convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if drawing:
        image.quantize(128).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    kind = "png" if drawing else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(name, Path(name).stem, uri, *image.size)


def is_number(value) -> bool:
    """Whether it can stand in a column of numbers."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
