"""Class folders in a zip or tar with an accident in it, through the index and the reader of images."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from classification.index.class_folders import find_split
from classification.index.index import open_index
from engine.errors import UserError
from engine.images.reading import UnreadableImage
from soak.mutation import mutate_bytes
from soak.pool import Outcome, Trial, last_traceback

CLASSES = ("ape", "bear", "café")
IMAGES = 3  # of each class
_TARS = {"gnu.tar": tarfile.GNU_FORMAT, "pax.tar": tarfile.PAX_FORMAT, "ustar.tar": tarfile.USTAR_FORMAT}


def prepare_archives(folder: Path) -> Trial:
    """An archive of each form, of PNGs, whose checksums tell damaged pixels, and the trials of them."""
    archives = _archives(_files())
    names = list(archives)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_bytes(archives[names[0]])
    whole = _contents(folder / names[0], folder / "cache")
    assert len(whole) == len(CLASSES) * IMAGES and None not in whole.values()

    def trial(seed: int, place: Path) -> Outcome:
        name, random = names[seed % len(names)], np.random.default_rng(seed)
        data, accident = mutate_bytes(archives[name], random)
        path, kind = place / name, f"archive, {name}, {accident}"
        path.write_bytes(data)
        try:
            found = _contents(path, place / "cache")
        except UserError as error:
            fault = "" if name in str(error) else f"the message does not name the file: {error}"
            return Outcome(kind, "refused", fault)
        except Exception:
            return Outcome(kind, "traceback", f"{name}: {last_traceback()}")
        finally:
            changed = path.read_bytes() != data
            shutil.rmtree(place)
        if changed:
            return Outcome(kind, "read", "the file was changed by reading it")
        wrong = sorted(key for key, pixels in found.items() if pixels is not None and pixels != whole.get(key))
        if wrong:
            return Outcome(kind, "differs", f"{name}: other pixels or another place for {wrong}")
        if found == whole:
            return Outcome(kind, "equal")
        missing = sorted(whole.keys() - found.keys())
        return Outcome(kind, "partly read", f"{name}: without a word there is no {missing}" if missing else "")

    return trial


def _contents(path: Path, cache: Path) -> dict[tuple[str, str], bytes | None]:
    """(class, image) → its pixels, None where the image is refused. Raises UserError where the archive is."""
    index = open_index(find_split(path, "train"), cache)
    found = {}
    for position in range(len(index)):
        key = index.classes[index.label(position)], Path(index.name(position)).name
        assert key not in found, f"{key} is there twice"
        try:
            found[key] = index.read(position).tobytes()
        except UnreadableImage as error:
            assert index.name(position) in str(error), f"the message does not name the image: {error}"
            found[key] = None
    return found


def _files() -> dict[str, bytes]:
    """Path in the archive → content."""
    random, found = np.random.default_rng(0), {}
    for name in CLASSES:
        for number in range(IMAGES):
            out = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (9, 7, 3), np.uint8)).save(out, "PNG")
            found[f"train/{name}/{number}.png"] = out.getvalue()
    return found


def _archives(files: dict[str, bytes]) -> dict[str, bytes]:
    """File name → content, of the forms that people's programs write."""
    found = {}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    found["stored.zip"] = out.getvalue()
    for form, name in (
        (tarfile.GNU_FORMAT, "gnu.tar"),
        (tarfile.PAX_FORMAT, "pax.tar"),
        (tarfile.USTAR_FORMAT, "u.tar"),
    ):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for path, data in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        found[name] = out.getvalue()
    return found
