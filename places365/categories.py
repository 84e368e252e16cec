"""The official scene classes of Places365: names, order, and which are indoors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_FILE = Path(__file__).with_name("categories365.txt")


def _read() -> tuple[tuple[str, ...], tuple[bool, ...]]:
    lines = (line.split() for line in _FILE.read_text(encoding="ascii").splitlines() if not line.startswith("#"))
    _, names, places = zip(*lines, strict=True)
    return names, tuple(place == "indoor" for place in places)


#: The 365 names in the official order, the position being the class index: "airfield", "apartment_building/outdoor".
#: It is not the order of the sorted folder names once "/" has become "_": that moves the classes 116, 117, 118, 141
#: and 142, since "/" sorts before "_" ("desert/sand" before "desert_road", but "desert_road" before "desert_sand").
PLACES365, _INDOOR = _read()


def _spellings() -> dict[str, int]:
    """Every way in which public copies of the set spell a class, and the index that it stands for.

    The official lists write /d/desert/sand; the archive "with easy directory structure" has folders called
    desert-sand; many copies join with "_". No two classes share a spelling, which a test checks.
    """
    found = {}
    for index, name in enumerate(PLACES365):
        for spelling in (name, name.replace("/", "-"), name.replace("/", "_")):
            for prefix in ("", f"{name[0]}/", f"/{name[0]}/"):
                found[prefix + spelling] = index
    return found


_INDEX = _spellings()


def places365_classes() -> list[str]:
    """The 365 class names in the official order, as a new list; see ``PLACES365``."""
    return list(PLACES365)


def class_index(name: str) -> int | None:
    """The official index, 0..364, of a class in any of its spellings; None where it is no Places365 class.

    "desert/sand", "/d/desert/sand", "d/desert/sand", "desert-sand" and "desert_sand" are all 116.
    """
    return _INDEX.get(name)


def indoor_flags(names: Iterable[str]) -> list[bool | None]:
    """For each class name, in any spelling: True indoors, False outdoors, None where it is no Places365 class.

    Source: IO_places365.txt of the Places365 release.
    """
    indices = map(class_index, names)
    return [None if index is None else _INDOOR[index] for index in indices]
