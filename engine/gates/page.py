"""What the gates do, for people: a table, and a page with it and the pictures."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path

from engine.report.page import number, read_picture, render, table
from se_backbones.files import write_atomically

MAX_SIDE = 2200  # pixels of a picture in the page
_HEADS = (
    "gate", "stage", "channels", "mean", "sd", "between", "within", "> high", "< low", "always on", "always off",
    "r with scale",
)  # fmt: skip


def rows(content: Mapping) -> list[list[str]]:
    """The figures of each gate as texts, first to last, with a head; a dash where there is none."""
    high, low = f"> {content['high']}", f"< {content['low']}"
    head = [{"> high": high, "< low": low}.get(name, name) for name in _HEADS]
    return [head, *map(_row, content["gates"])]


def _row(gate: Mapping) -> list[str]:
    return [
        gate["path"],
        gate["stage"],
        str(gate["channels"]),
        number(gate["mean"], 3),
        *(number(gate[name], 4) for name in ("deviation", "between", "within")),
        *(f"{100 * gate[name]:.1f} %" for name in ("above", "below")),
        str(len(gate["always_on"])),
        str(len(gate["always_off"])),
        "none" if gate["scale_correlation"] is None else f"{gate['scale_correlation']:+.2f}",
    ]


def describe(content: Mapping) -> str:
    """``gates.json`` in lines: what was looked at, a table, and what its columns mean."""
    found = rows(content)
    widths = [max(len(row[place]) for row in found) for place in range(len(found[0]))]
    lines = [
        "  ".join(cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in found)
    ]
    return "\n".join([_subject(content), "", *lines, "", *notes(content)])


def _subject(content: Mapping) -> str:
    which = "all" if content["images"] == content["of_images"] else f"of {content['of_images']:,}"
    count = f"{content['images']:,} images ({which})"
    return f"{len(content['gates'])} gates of {content['architecture']} on {content['data']}: {count}"


def notes(content: Mapping) -> list[str]:
    """What has to be known to read the table, a sentence each."""
    high, low, gates = content["high"], content["low"], content["gates"]
    lines = []
    if content["classes"]:
        known = sum(count > 0 for count in content["images_of_classes"])
        few = sum(count == 1 for count in content["images_of_classes"])
        lines.append(
            f"Classes: {known} of {len(content['classes'])} with images; {content['counted']}."
            + (f" {few} have a single image and count for no spread." if few else "")
        )
    lines += [
        "sd, between, within: standard deviations over images, between classes' means, within a class; root mean "
        "squares over the channels.",
        f"Always on, always off: channels with gates above {high}, below {low} in size on every one of these images.",
        "r with scale: correlation, over channels, of the mean gate with |weight| of the normalisation that could take "
        "up a constant gate.",
    ]
    for reason in dict.fromkeys(gate["scale"] for gate in gates if gate["scale"].startswith("none")):
        count = sum(gate["scale"] == reason for gate in gates)
        lines.append(f"{_of(count, gates)}: no scale ({reason.partition(': ')[2]}).")
    if places := [gate for gate in gates if gate["squeeze"] == "none"]:
        lines.append(f"{_of(len(places), gates)}: no squeeze; each place of the map has a value, an image their mean.")
    if regions := [gate for gate in gates if gate["squeeze"] != "none" and gate["values"] != gate["images"]]:
        seen = f"{regions[0]['values']:,} regions"
        lines.append(f"{_of(len(regions), gates)}: in the head, on {seen}; an image counts by the mean of its regions.")
    if any(gate["gate"] == "relu" for gate in gates):
        lines.append(f"relu gates have no upper bound: above {high} is not saturated.")
    return lines


def _of(count: int, gates: list) -> str:
    return "All gates" if count == len(gates) else f"{count} of {len(gates)} gates"


def write_page(content: Mapping, pictures: Mapping[str, Path], folder: Path) -> Path:
    """Writes ``summary.html``, which loads nothing from elsewhere, into a folder.

    Args:
        pictures: what each shows → where it is.

    Returns:
        the page's path.
    """
    found = rows(content)
    shown = [(caption, read_picture(path, MAX_SIDE, 85)) for caption, path in pictures.items()]
    counts = zip(content["classes"], content["images_of_classes"], strict=True)
    facts = {
        "Weights": content["weights"],
        "Data": content["data"],
        "Command": content["command"],
        "Hardware": content["hardware"],
        "Versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
    }
    page = render(
        "gates.html.j2",
        title=f"What the gates of {content['architecture']} do",
        subject=_subject(content),
        table=table(found[0], found[1:]),
        notes=notes(content),
        pictures=shown,
        facts=facts,
        classes=table(("Class", "images"), list(counts)) if content["classes"] else None,
        meanings=json.dumps(content["meanings"], indent=2, ensure_ascii=False),
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    return write_atomically(Path(folder) / "summary.html", page)
