"""Pascal VOC: an XML file an image, and lists of the images of each split."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

from detection.annotations.categories import class_name
from detection.annotations.report import Problem
from detection.annotations.values import is_size
from detection.formats.conversion import Conversion, Size, relative, size_of
from engine.errors import UserError
from engine.predict.image_files import is_picture

IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FLAGS = {"": 0, "0": 0, "1": 1, "false": 0, "true": 1, "unspecified": 0}
STATED_ENCODING = re.compile(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][\w.-]*)["']""")
PARSERS_OWN = ("utf-8", "utf-16", "us-ascii", "iso-8859-1")
MAX_NAMED = 12


class UnreadableXml(Exception):
    """What keeps a file from being an annotation of Pascal VOC."""


@dataclass(frozen=True)
class VocFolder:
    """Where the parts of a set lie.

    Attributes:
        root: paths in messages are relative to it.
        xml: the folder of the annotations. images: that of the pictures.
        lists: the folder of the splits' lists, which there need not be.
    """

    root: Path
    xml: Path
    images: Path
    lists: Path


def is_voc(folder: Path) -> bool:
    """Whether a folder is one of Pascal VOC: it has Annotations/, or XML files of its own beside the pictures."""
    return (folder / "Annotations").is_dir() or any(folder.glob("*.xml"))


def root_of_list(path: Path) -> Path | None:
    """The folder that a list of images, ``ImageSets/Main/train.txt`` say, belongs to; None where there is none."""
    return next((folder for folder in path.absolute().parents[:3] if (folder / "Annotations").is_dir()), None)


def read_voc(folder: Path, images: Path | None = None, chosen: Path | None = None, split: str = "") -> Conversion:
    """Reads a set of Pascal VOC.

    Boxes are corners in pixels that are counted from 1 and belong to the box (the VOC2007 development kit,
    section 2.3): xmin 1, xmax 10 is ten pixels wide from 0 on. ``difficult`` objects become crowds, which evaluation
    neither wants found nor counts as wrong, as in VOC's own, and they keep their flag: training learns from them, as
    Detectron2's does. ``truncated``, ``pose`` and the parts of an object (head, hands) are passed over. Where an XML
    file states no size, it is its image's.

    Classes are the names in all annotations of the folder, of other splits too, in alphabetical order, or those of its
    classes.txt, one a line, in that order; ids count from 1. Where no list says which images are meant, pictures
    without an XML file are passed over, with a remark on each among the problems.

    Args:
        images: the folder of the pictures, where it is none of the usual ones.
        chosen: the list of those to read.
        split: the name of that list, where it is not given and the folder has lists; "" for all images.

    Raises:
        UserError: there is no such list, or no folder of pictures, or nothing to read.
    """
    voc = _locate(folder, images)
    chosen = chosen or _list_of(voc, split)
    names = _chosen_names(voc, chosen)
    pictures: dict[str, list[str]] = {}
    for picture in sorted(os.listdir(voc.images)):
        if is_picture(picture):
            pictures.setdefault(_stem(picture), []).append(picture)
    parsed = {name: _try(voc.xml / f"{name}.xml") for name in names}
    named, classes = _classes(voc, parsed)
    names_of = dict(enumerate(classes, start=1))
    found = Conversion(names_of, "object", named, voc.images)
    ids = {name: number for number, name in names_of.items()}
    for name, content in parsed.items():
        _add(found, voc, name, content, pictures, ids)
    if chosen is None:
        _name_the_unlisted(found, voc, chain.from_iterable(pictures.values()))
    return found


def _locate(folder: Path, images: Path | None) -> VocFolder:
    nested = (folder / "Annotations").is_dir()
    xml = folder / "Annotations" if nested else folder
    usual = [folder / name for name in IMAGE_FOLDERS]
    pictures = images or next((one for one in usual if one.is_dir()), None) or (None if nested else folder)
    if pictures is None:
        raise UserError(f"{folder}: it has Annotations/, and no {' or '.join(IMAGE_FOLDERS)}: name the image folder")
    return VocFolder(folder, xml, pictures, folder / "ImageSets" / "Main")


def _list_of(voc: VocFolder, split: str) -> Path | None:
    """The list of a split; None for all images, where none is asked for or the folder has no lists."""
    if not split or not voc.lists.is_dir():
        return None
    path = voc.lists / f"{split}.txt"
    if not path.is_file():
        there = sorted(one.name for one in voc.lists.glob("*.txt"))
        named = ", ".join(there[:MAX_NAMED]) + (", …" if len(there) > MAX_NAMED else "")
        raise UserError(f"{voc.lists} has no {path.name}; name one that is there ({named or 'none'}) in its place")
    return path


def _chosen_names(voc: VocFolder, chosen: Path | None) -> list[str]:
    """The names of the XML files to read, without suffix."""
    if chosen is None:
        names = sorted(path.stem for path in voc.xml.glob("*.xml"))
        if not names:
            raise UserError(f"{voc.xml} has no XML file")
        return names
    try:
        lines = chosen.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{chosen} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    names = [_name_in_line(voc, line.strip()) for line in lines if line.strip()]
    if not names:
        raise UserError(f"{chosen} names no image")
    return names


def _name_in_line(voc: VocFolder, line: str) -> str:
    """The image of a line of a list. Those of one class have a second column: -1, 0 or 1."""
    if not (voc.xml / f"{line}.xml").is_file():
        first, _, last = line.rpartition(" ")
        line = first.strip() if last in ("-1", "0", "1") and first.strip() else line
        stem = _stem(line)
        if not (voc.xml / f"{line}.xml").is_file() and (voc.xml / f"{stem}.xml").is_file():
            return stem
    return line


def _try(path: Path) -> ElementTree.Element | UnreadableXml:
    try:
        return read_xml(path)
    except UnreadableXml as error:
        return error


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an annotation's file.

    Raises:
        UnreadableXml: with the place; also where the file defines entities, by which a small one can become large.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadableXml("there is no such file") from None
    except OSError as error:
        raise UnreadableXml(f"it cannot be read: {error.strerror or error}") from None
    try:
        root = _parsed(content)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise UnreadableXml(f"it is not valid XML: {str(error).split(':')[0]}, line {line}, column {column}") from None
    except (ValueError, LookupError) as error:  # an encoding that Python does not know, or other bytes than its own
        raise UnreadableXml(f"it is not valid XML: {error}") from None
    if root.tag != "annotation":
        raise UnreadableXml(f"it holds <{root.tag[:60]}>, not <annotation>")
    return root


def _parsed(content: bytes) -> ElementTree.Element:
    """Raises UnreadableXml for entities, and ParseError, ValueError or LookupError for what is no XML."""
    stated = STATED_ENCODING.match(content)
    encoding = stated[1].decode("ascii").lower() if stated else ""
    # Those of several bytes a letter, GBK say, Python knows and its XML parser does not.
    text = content.decode(encoding) if encoding and encoding not in PARSERS_OWN else content
    if "<!ENTITY" in text if isinstance(text, str) else b"<!ENTITY" in text.replace(b"\0", b""):
        raise UnreadableXml("it defines entities, which an annotation has no use for")
    return ElementTree.fromstring(text)


def _classes(voc: VocFolder, parsed: dict) -> tuple[str, list[str]]:
    """What names the classes, and their names in order. ``parsed`` are the files that were read already."""
    listed = voc.root / "classes.txt"
    if listed.is_file():
        return str(listed), listed_classes(listed)
    names = set()
    # Of other splits too, so that the classes of all are the same; what is wrong there is said where they are read.
    others = (_try(path) for path in voc.xml.glob("*.xml") if path.stem not in parsed)
    for content in chain(parsed.values(), others):
        if not isinstance(content, UnreadableXml):
            names |= {class_name(one.findtext("name", "")) for one in content.iterfind("object")}
    return f"the names in {voc.xml}", sorted(names - {""})


def listed_classes(path: Path) -> list[str]:
    """The class names of a file, one a line. Raises UserError where it cannot be read."""
    try:
        return [name for line in path.read_text(encoding="utf-8-sig").splitlines() if (name := class_name(line))]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _add(
    found: Conversion, voc: VocFolder, name: str, content, pictures: dict[str, list[str]], ids: dict[str, int]
) -> None:
    """Adds an image with its objects.

    Args:
        pictures: those of each name without suffix.
    """
    label = relative(voc.xml / f"{name}.xml", voc.root)
    own = pictures.get(name, ())
    if isinstance(content, UnreadableXml):
        found.add_image(own[0] if own else f"{name}.jpg", label, None)
        found.add_image_problem("label_file", str(content))
        return
    stated = os.path.basename(content.findtext("filename", "").strip().replace("\\", "/"))  # a path of Windows, too
    picture = stated if stated in own or not own else own[0]
    picture = picture or f"{name}.jpg"
    size = _stated_size(content) or size_of(voc.images / picture)
    found.add_image(picture, label, size)
    if isinstance(size, tuple):  # without one, boxes have nothing to be compared with
        for number, item in enumerate(content.iterfind("object"), start=1):
            _add_object(found, number, item, ids)


def _name_the_unlisted(found: Conversion, voc: VocFolder, pictures: Iterable[str]) -> None:
    """A remark on each picture that no file of annotations is of: where all are asked for, somebody may miss it."""
    used = {image["file_name"] for image in found.coco["images"]}
    for picture in pictures:
        if picture not in used:
            place = relative(voc.images / picture, voc.root)
            message = f"there is no {voc.xml.name}/{_stem(picture)}.xml"
            found.origin.problems.append(Problem("unlisted_picture", "images", 0, message, place=place))


def _stem(picture: str) -> str:
    return os.path.splitext(picture)[0]


def _stated_size(content: ElementTree.Element) -> Size | None:
    """Width and height, where both are stated and may be meant: some tools leave 0 there."""
    try:
        size = tuple(float(content.findtext(f"size/{side}", "")) for side in ("width", "height"))
    except ValueError:
        return None
    return (int(size[0]), int(size[1])) if all(map(is_size, size)) else None


def _add_object(found: Conversion, number: int, item: ElementTree.Element, ids: dict[str, int]) -> None:
    name = class_name(item.findtext("name", ""))
    try:
        corners = [_corner(item, key) for key in CORNERS]
        difficult = _flag(item, "difficult")
        if not name:
            raise ValueError("it has no <name>")
    except ValueError as error:
        found.add_unreadable(number, "label_record", str(error))
        return
    if name not in ids:
        found.add_unreadable(number, "unknown_category", f"its class {name!r} is not among {found.origin.classes}")
        return
    left, top, right, bottom = corners
    box = (left - 1, top - 1, right - left + 1, bottom - top + 1)
    found.add_object(number, ids[name], box, **({"iscrowd": 1, "difficult": 1} if difficult else {}))


def _corner(item: ElementTree.Element, key: str) -> float:
    """One of the four numbers of a box: a fraction is kept, as VOC2011 has them."""
    box = item.find("bndbox")  # its own, not that of a part
    if box is None:
        raise ValueError("it has no <bndbox>")
    text = box.findtext(key)
    if text is None:
        raise ValueError(f"its <bndbox> has no <{key}>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"its <{key}> is {text.strip()[:60]!r}, not a number")
    return value


def _flag(item: ElementTree.Element, key: str) -> int:
    text = (item.findtext(key) or "").strip().lower()
    if text not in FLAGS:
        raise ValueError(f"its <{key}> is {text[:60]!r}, neither 0 nor 1")
    return FLAGS[text]
