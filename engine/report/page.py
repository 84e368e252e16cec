"""The parts of a summary page: self-contained HTML, no script, everything escaped."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1c2126; --muted: #626b75;
  --line: #e2e6ea; --accent: #2b6cb0; --code: #f0f2f5; --warn: #8a5300; --warn-page: #fff4de; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --card: #1d2125; --ink: #e6e9ec; --muted: #9aa4ae; --line: #32383e;
    --accent: #7db4ea; --code: #15181b; --warn: #f0c27b; --warn-page: #33290f; }
  .curve img { filter: invert(0.885) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: clamp(1rem, 3vw, 2.5rem); }
h1 { font-size: clamp(1.5rem, 4vw, 2.2rem); line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .8rem; }
h3 { font-size: .95rem; margin: 0 0 .6rem; color: var(--muted); font-weight: 600; }
p { margin: 0 0 .6rem; } .muted { color: var(--muted); } .eyebrow { color: var(--muted); font-size: .9rem;
  margin: 0 0 .3rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem 1.2rem;
  min-width: 0; }
.warn { background: var(--warn-page); color: var(--warn); border-color: transparent; margin: 1rem 0; }
.warn p { margin: 0 0 .2rem; } .warn ul { margin: 0; padding-left: 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: .8rem;
  margin: 1.4rem 0; }
.tile b { display: block; font-size: clamp(1.5rem, 5vw, 1.9rem); white-space: nowrap; line-height: 1.15;
  font-weight: 650; font-variant-numeric: tabular-nums; }
.tile.first b { color: var(--accent); } .tile span { color: var(--muted); font-size: .88rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: .8rem;
  align-items: start; }
.stack { display: grid; gap: .8rem; min-width: 0; } .full { grid-column: 1 / -1; }
.pictures { display: grid; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: .8rem; }
.pictures.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 540px), 1fr)); }
figure { margin: 0; overflow: hidden; } figure.card { padding: 0; } figure img { display: block;
  width: 100%; height: auto; }
figure.card.curve { padding: .9rem; background: #fff; }
@media (prefers-color-scheme: dark) { figure.card.curve { background: #1d1d1d; } }
figcaption { color: var(--muted); font-size: .8rem; padding: .35rem .7rem; overflow-wrap: anywhere; }
h3.next { margin-top: 1rem; } p.note { margin: .7rem 0 0; color: var(--muted); font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .32rem .4rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > * { border-bottom: 0; } th { font-weight: 600; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
table.facts th { width: 34%; color: var(--muted); font-weight: 500; }
.bars { columns: 3 300px; column-gap: 2rem; font-size: .88rem; }
.bars div { display: grid; grid-template-columns: minmax(0, 9.5em) 1fr 3em; gap: .6rem; align-items: center;
  break-inside: avoid; padding: .14rem 0; }
.bars span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars em { font-style: normal; text-align: right; font-variant-numeric: tabular-nums; }
.bars i { display: block; height: .62em; border-radius: 3px; background: var(--code); }
.bars i > i { background: var(--accent); height: 100%; }
pre { background: var(--code); border-radius: 8px; padding: .7rem .9rem; margin: 0; overflow-x: auto;
  font-size: .84rem; line-height: 1.45; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.step pre { white-space: pre-wrap; overflow-wrap: anywhere; } .step + .step { margin-top: .9rem; }
.step p { margin: 0 0 .25rem; font-size: .9rem; color: var(--muted); }
details { margin-top: .8rem; } summary { cursor: pointer; font-weight: 600; }
details > :nth-child(2) { margin-top: .8rem; }
footer { margin-top: 2.5rem; color: var(--muted); font-size: .85rem; }
"""


def escape(value) -> str:
    """Any value as text that is safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document; `title` is plain text, `body` HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def number(value, digits: int = 1) -> str:
    """A figure as text; a dash where there is none (None, NaN, COCO's -1 for figures that have no
    objects)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value == -1:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else f"{value:,}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 48 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def tiles(entries: Sequence[tuple[str, str]]) -> str:
    """Large figures, (figure, what it is), the first one in colour."""
    parts = [
        f'<div class="card tile{"" if index else " first"}"><b>{escape(figure)}</b><span>{escape(label)}</span></div>'
        for index, (figure, label) in enumerate(entries)
    ]
    return f'<div class="tiles">{"".join(parts)}</div>' if parts else ""


def facts(entries: Iterable[tuple[str, object]]) -> str:
    """A table of names and values; empty values are left out."""
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in entries
        if value not in (None, "", [], {})
    ]
    return f'<table class="facts">{"".join(rows)}</table>' if rows else ""


def figures(entries: Iterable[tuple[str, str, object]]) -> str:
    """A table of figures: (name, meaning, value)."""
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td class="muted">{escape(meaning)}</td>'
        f'<td class="number">{number(None if value is None else float(value), 2)}</td></tr>'
        for name, meaning, value in entries
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], digits: int = 2) -> str:
    """A table with a line of heads; columns of numbers stand to the right, texts to the left, the first column in
    bold."""
    lines = [list(row) for row in rows]
    if not lines:
        return ""
    numeric = [all(_is_number(row[index]) for row in lines) for index in range(len(heads))]
    kinds = [' class="number"' if is_numeric else "" for is_numeric in numeric]
    top = "".join(f'<th scope="col"{kind}>{escape(head)}</th>' for head, kind in zip(heads, kinds, strict=True))
    body = []
    for row in lines:
        cells = [
            number(value, digits) if is_numeric else escape(value)
            for value, is_numeric in zip(row, numeric, strict=True)
        ]
        body.append(f'<tr><th scope="row"{kinds[0]}>{cells[0]}</th>')
        body += [f"<td{kind}>{cell}</td>" for cell, kind in zip(cells[1:], kinds[1:], strict=True)]
        body.append("</tr>")
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def bars(values: Sequence[tuple[str, object]]) -> str:
    """Percentages 0..100 as bars: (name, value or None)."""
    parts = []
    for name, value in values:
        text = number(float(value)) if isinstance(value, int | float) else number(None)
        width = min(max(float(value), 0.0), 100.0) if text != "–" else 0.0
        parts.append(
            f'<div><span title="{escape(name)}">{escape(name)}</span>'
            f'<i><i style="width:{width:.1f}%"></i></i><em>{text}</em></div>'
        )
    return f'<div class="bars">{"".join(parts)}</div>'


def details(title: str, content: str) -> str:
    """`content` (HTML) that opens on a click."""
    return f'<details class="card"><summary>{escape(title)}</summary><div>{content}</div></details>'


def figure(uri: str, caption: str, kind: str = "") -> str:
    """A picture with its caption; the caption is its description too."""
    note = "" if kind.startswith("curve") else f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure class="card {kind}"><img src="{uri}" alt="{escape(caption)}">{note}</figure>'


def inline_image(path: Path, longest: int, quality: int) -> tuple[str, tuple[int, int]]:
    """A picture file as a data URI, at most `longest` pixels on its longer side, and its (width, height).

    Drawings (PNG) stay PNG, in 128 colours, all else becomes JPEG of the given quality. Raises OSError or
    ValueError if it cannot be read.
    """
    with Image.open(path) as image:
        image.load()
        drawing = image.format == "PNG"
        image = image.convert("RGB")
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if drawing:
        image.quantize(128).save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True)
    kind = "png" if drawing else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", image.size


def _is_number(value) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
