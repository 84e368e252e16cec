"""YOLO's folders: images, a text file of labels for each, and a data.yaml that names splits and classes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from detection.annotations.categories import class_name
from detection.formats.conversion import Conversion, Size, relative, sizes
from detection.formats.voc import listed_classes
from engine.errors import UserError
from engine.predict.image_files import is_clutter, is_picture

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
NOTHING = ("", "~", "null")  # YAML's words for it
OUTSIDE = 1.0  # of the image's side: numbers further out are none of shares


@dataclass(frozen=True)
class YoloSet:
    """What a set of YOLO names.

    Attributes:
        root: image paths are relative to it.
        classes: what names the classes. names: of each class number.
        splits: the entries of each split: folders, lists of images or images.
        keypoints: whether points follow the boxes, which are passed over.
    """

    root: Path
    classes: str
    names: dict[int, str]
    splits: dict[str, list[Path]]
    keypoints: bool = False


class _TextLoader(yaml.SafeLoader):
    """PyYAML's safe loader, to which every value is a text: a class called "on" or "1" is no truth and no number."""

    yaml_implicit_resolvers = {}


def find_yaml(folder: Path) -> Path | None:
    """The file of a folder that names its classes: data.yaml, or the only other YAML file that does."""
    if (usual := folder / "data.yaml").is_file():
        return usual
    there = [path for pattern in ("*.yaml", "*.yml") for path in folder.glob(pattern)]
    naming = [path for path in there if "names" in _lenient(path)]
    return naming[0] if len(naming) == 1 else None


def _lenient(path: Path) -> dict:
    try:
        return _read(path)
    except UserError:
        return {}


def is_yolo(folder: Path) -> bool:
    """Whether a folder is one of YOLO: it has a data.yaml, or labels/ and images/."""
    return find_yaml(folder) is not None or all((folder / name).is_dir() for name in ("images", "labels"))


def read_yolo(path: Path, split: str = "") -> Conversion:
    """Reads a set of YOLO.

    A line of a label file is a class number and a box, its centre, width and height as shares of the image's, or a
    polygon of three points or more, whose box is the smallest around it. Category ids are the class numbers. An image
    with an empty label file, or none, is one without objects. Lines of a list are paths from its folder on, or from the
    set's. Labels lie where images do, with ``labels`` for the last
    ``images`` of the path and the suffix .txt.

    Args:
        path: the data.yaml, whose ``path``, ``train``, ``val``, ``test`` and ``names`` are read, or its folder; one
            without has a classes.txt.
        split: train, val or test; "" for all that there are.

    Raises:
        UserError: the classes are not named, there is no such split, or it has no images or no label files at all.
    """
    found = _described(path) if path.is_file() else _of_folder(path)
    if split and split not in found.splits:
        raise UserError(f"{path} names no {split} images; it has {', '.join(found.splits) or 'none at all'}")
    entries = found.splits[split] if split else [one for part in found.splits.values() for one in part]
    images = list(dict.fromkeys(image for entry in entries for image in _images(entry, found.root, path)))
    if not images:
        raise UserError(f"{path}: there are no images in {', '.join(map(str, entries)) or 'it'}")
    labels = [label_of(image) for image in images]
    if not any(label.is_file() for label in labels):
        raise UserError(
            f"{path}: none of its {len(images)} images has a file of labels; the first is looked for at {labels[0]}"
        )
    content = Conversion(found.names, "line", found.classes, found.root)
    for image, label, size in zip(images, labels, sizes(images), strict=True):
        content.add_image(relative(image, found.root), relative(label, found.root), size)
        if isinstance(size, tuple):
            _add_objects(content, label, size, found.keypoints)
    return content


def label_of(image: Path) -> Path:
    """The label file of an image."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read(path: Path) -> dict:
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_TextLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path} is not valid YAML{place}: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no description of a YOLO set: it has no keys")
    return content


def _described(path: Path) -> YoloSet:
    """The set of a data.yaml."""
    content = _read(path)
    names = _names(content, path)
    root = _root(*(_texts(content, ["path"], path) or [""]), path)
    entries = {split: _texts(content, keys, path) for split, keys in SPLITS.items()}
    splits = {split: [_place(root, entry) for entry in given] for split, given in entries.items() if given}
    return YoloSet(root, str(path), names, splits, bool(content.get("kpt_shape")))


def _texts(content: dict, keys: Iterable[str], path: Path) -> list[str]:
    """The paths under the first of the keys that has some: one, or a list of them."""
    for key in keys:
        given = content.get(key) or ""
        if not isinstance(given, str) or given.lower() not in NOTHING:
            texts = given if isinstance(given, list) else [given]
            if not all(isinstance(one, str) and one for one in texts):
                raise UserError(f"{path}: `{key}` must be a path, or a list of paths")
            return texts
    return []


def _names(content: dict, path: Path) -> dict[int, str]:
    given = content.get("names")
    pairs = enumerate(given) if isinstance(given, list) else given.items() if isinstance(given, dict) else ()
    try:
        names = {int(number): class_name(name) for number, name in pairs}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: `names` must be a list of names, or a name for each class number") from None
    if not names:
        raise UserError(f"{path}: `names` is missing or empty: it is the list of the classes' names")
    stated = content.get("nc") or ""
    count = str(len(names)) if stated in NOTHING else stated
    if count != str(len(names)):
        raise UserError(f"{path}: `nc` is {count}, and `names` has {len(names)}")
    return names


def _root(stated: str, path: Path) -> Path:
    """The folder of a set: its ``path`` where that is there, from the file's folder on or from here; else the file's
    own folder, for such a path is often one of the machine where the set was made."""
    own = path.parent
    return next((one for one in (own / stated, Path(stated)) if stated and one.is_dir()), own)


def _place(root: Path, entry: str) -> Path:
    """A split's entry: below the root, also where it says that it lies beside it, as Roboflow's files do."""
    place = root / entry
    inside = root / entry.removeprefix("../")
    return inside if not place.exists() and inside.exists() else place


def _of_folder(folder: Path) -> YoloSet:
    """The set of a folder: its data.yaml's, or what lies in images/ with the classes of a classes.txt."""
    if described := find_yaml(folder):
        return _described(described)
    listed = next((one for one in (folder / "classes.txt", folder / "labels" / "classes.txt") if one.is_file()), None)
    if listed is None:
        raise UserError(f"{folder}: nothing names its classes: write a data.yaml with `names`, or a classes.txt")
    images, splits = folder / "images", {}
    for split, names in SPLITS.items():
        place = next((images / name for name in names if (images / name).is_dir()), None)
        if place:
            splits[split] = [place]
    return YoloSet(folder, str(listed), dict(enumerate(listed_classes(listed))), splits or _undivided(images))


def _undivided(images: Path) -> dict[str, list[Path]]:
    return {split: [images] for split in SPLITS}


def _images(entry: Path, root: Path, path: Path) -> Iterator[Path]:
    """The images of an entry of a split, in order: those in a folder and below, or of a list."""
    if entry.is_dir():
        for folder, below, names in os.walk(entry):
            below[:] = sorted(name for name in below if not is_clutter(name))
            place = Path(folder)
            yield from (place / name for name in sorted(names) if not is_clutter(name) and is_picture(place / name))
    elif entry.is_file() and entry.suffix == ".txt":
        try:
            lines = entry.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{entry} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        yield from (_listed(line.strip(), entry.parent, root) for line in lines if line.strip())
    elif entry.is_file():
        yield entry
    else:
        raise UserError(f"{path}: there is no folder or list {entry}")


def _listed(line: str, beside: Path, root: Path) -> Path:
    """The image of a line of a list: from the list's folder on, or from the set's, as Darknet's lists name them."""
    place = beside / line
    below = root / line
    return below if not place.exists() and below.exists() else place


def _add_objects(content: Conversion, label: Path, size: Size, keypoints: bool) -> None:
    """Adds what a label file says of the last image."""
    try:
        lines = label.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        content.add_image_problem("no_label_file", f"there is no file {label}")
        return
    except (OSError, UnicodeDecodeError) as error:
        content.add_image_problem("label_file", f"it cannot be read: {getattr(error, 'strerror', None) or error}")
        return
    known = {category["id"] for category in content.coco["categories"]}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            category, shares = _parse(line, keypoints)
        except ValueError as error:
            content.add_unreadable(number, "label_record", str(error))
            continue
        if category not in known:
            names = f"the {len(known)} in {content.origin.classes}, {min(known)}..{max(known)}"
            content.add_unreadable(number, "unknown_category", f"its class {category} is none of {names}")
        elif len(shares) == 4:
            content.add_object(number, category, _box(shares, size))
        else:
            content.add_object(number, category, **_polygon(shares, size))


def _parse(line: str, keypoints: bool) -> tuple[int, list[float]]:
    """The class number of a line, and its box's four shares or its polygon's, an even number of six or more.

    Raises:
        ValueError: what is wrong with it, in words.
    """
    first, *rest = line.split()
    shares = []
    for text in [first, *rest]:
        try:
            shares.append(float(text))
        except ValueError:
            raise ValueError(f"{text[:60]!r} is not a number") from None
    number, *shares = shares
    if not all(map(math.isfinite, (number, *shares))) or number != int(number):
        raise ValueError(f"{line.strip()[:60]!r} holds a number that is not finite, or a class that is not whole")
    if keypoints:
        shares = shares[:4]
    if len(shares) < 4 or (len(shares) != 4 and (len(shares) < 6 or len(shares) % 2)):
        raise ValueError(
            f"{1 + len(shares)} numbers: 5 are a box (class, centre x and y, width, height), 7 or a larger odd count a "
            "polygon (class, x and y of each point)"
        )
    if max(map(abs, shares)) > 1 + OUTSIDE:
        raise ValueError(f"it holds {max(shares, key=abs):g}: are these pixels? They must be shares of the image, 0..1")
    return int(number), shares


def _box(shares: list[float], size: Size) -> tuple[float, float, float, float]:
    x, y, width, height = shares
    return (x - width / 2) * size[0], (y - height / 2) * size[1], width * size[0], height * size[1]


def _polygon(shares: list[float], size: Size) -> dict:
    """A polygon's box, itself in pixels, and its area by the shoelace formula, as keys of a record."""
    x, y = ([share * side for share in shares[start::2]] for start, side in enumerate(size))
    box = (min(x), min(y), max(x) - min(x), max(y) - min(y))
    pairs = zip(x, y, [*x[1:], x[0]], [*y[1:], y[0]], strict=True)
    twice = sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in pairs)
    numbers = [number for point in zip(x, y, strict=True) for number in point]
    return {"box": box, "area": abs(twice) / 2, "segmentation": [numbers]}
