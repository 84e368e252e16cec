"""The worst mistakes of an evaluation: a list to open, and small pictures of the worst of each class."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from engine.images.reading import UnreadableImage
from engine.images.writing import write_image
from engine.json_files import write_json

logger = logging.getLogger(__name__)

FOLDER = "analysis"  # in a run's
LIST, PICTURES = "mistakes.json", "mistakes"  # in that
LISTED_EACH = 100  # mistakes of a class in the list
SHOWN_EACH, SHOWN = 3, 60  # pictures of a class, and of all
SIDE = 320  # pixels of a picture's longer side


@dataclass(frozen=True)
class Mistake:
    """A mistake on an image.

    Attributes:
        group: the class under which it is listed.
        kind: of mistake, in words.
        file: the image, by its name in the set.
        image_id: the set's own, or its place in the set.
        predicted: class, and its score, 0..1; None where nothing was predicted.
        truth: class; None where there is nothing.
        details: what the task says of it besides.
    """

    group: str
    kind: str
    file: str
    image_id: int | str
    predicted: str | None
    score: float | None
    truth: str | None
    details: Mapping = field(default_factory=dict)

    def record(self, picture: str | None) -> dict:
        """For JSON."""
        names = ("group", "kind", "file", "image_id", "predicted", "score", "truth")
        return {**{name: getattr(self, name) for name in names}, **self.details, "picture": picture}


Draw = Callable[[Mistake], np.ndarray]


def write_mistakes(
    folder: Path, rule: str, mistakes: Mapping[str, Sequence[Mistake]], counts: Mapping[str, int], draw: Draw | None
) -> Path:
    """Writes ``mistakes.json`` and, beside it, a folder of pictures, in place of those that are there.

    Args:
        rule: what counts as a mistake, and in which order they come, for the reader of the list.
        mistakes: class → its mistakes, the worst first; of each ``LISTED_EACH`` are listed.
        counts: class → how many there are in all.
        draw: gives the picture of one, (H, W, 3) RGB uint8; may raise UnreadableImage. None: no pictures.

    Returns:
        the list's path: {"rule", "found" (in all), "listed", "pictures", "mistakes": [``Mistake.record``, …]}.
    """
    listed = [mistake for group in mistakes.values() for mistake in group[:LISTED_EACH]]
    shutil.rmtree(folder / PICTURES, ignore_errors=True)
    pictures: dict[int, str] = {}
    for mistake in shown(mistakes) if draw else ():
        name = f"{PICTURES}/{len(pictures) + 1:02d}.jpg"
        try:
            picture = Image.fromarray(draw(mistake))
        except UnreadableImage as error:
            logger.warning("no picture of %s", error)
            continue
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        write_image(folder / name, np.asarray(picture))
        pictures[id(mistake)] = name
    content = {
        "rule": rule,
        "found": sum(counts.values()),
        "listed": len(listed),
        "pictures": len(pictures),
        "mistakes": [mistake.record(pictures.get(id(mistake))) for mistake in listed],
    }
    return write_json(folder / LIST, content)


def shown(mistakes: Mapping[str, Sequence[Mistake]]) -> Iterator[Mistake]:
    """Those of which there are pictures: the worst of each class, then the second of each and so on, on different
    images of a class where it has them; where not all have room, the surest first."""
    columns = [_different_images(group[:LISTED_EACH]) for group in mistakes.values()]
    left = SHOWN
    for place in range(SHOWN_EACH):
        row = [column[place] for column in columns if place < len(column)]
        row.sort(key=lambda mistake: -1.0 if mistake.score is None else mistake.score, reverse=True)
        yield from row[:left]
        left -= len(row[:left])


def _different_images(group: Sequence[Mistake]) -> list[Mistake]:
    """The worst of each image first, the images' others behind them."""
    first, others, seen = [], [], set()
    for mistake in group:
        (others if mistake.image_id in seen else first).append(mistake)
        seen.add(mistake.image_id)
    return [*first, *others]


def read_mistakes(folder: Path) -> dict:
    """What ``write_mistakes`` wrote; empty where it is not there, or not whole."""
    try:
        content = json.loads((folder / LIST).read_text(encoding="utf-8"))
        return {"found": int(content["found"]), "mistakes": [dict(entry) for entry in content["mistakes"]]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
