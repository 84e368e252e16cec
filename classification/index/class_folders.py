"""Sets without lists: a folder for each class, ``root/train/CLASS/*.jpg`` and ``root/val/CLASS/*.jpg``."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from classification.index.split import Batch, Split, SplitNotFound
from engine.errors import UserError
from engine.predict.media import IMAGE_SUFFIXES

MAX_DEPTH = 8  # folders below each other; more are a loop of links
TRAIN = "train"  # the split whose folders name the classes


@dataclass(frozen=True)
class ClassFolders(Split):
    """A split whose folders are its classes.

    Attributes:
        folders: (folder relative to ``image_root``, class index) for each class.
    """

    folders: tuple[tuple[str, int], ...]

    @property
    def source(self) -> str:
        """The folder of the class folders."""
        return str(self.image_root)

    def key(self) -> dict:
        """Classes and folders; which files are in them, the folders' modification times tell."""
        return {"classes": self.classes, "class_folders": list(map(list, self.folders))}

    def read(self, folders: dict[str, int], times: dict[str, int]) -> Iterator[Batch]:
        """The images class by class; ``times`` are those of all folders, with or without images."""
        progress = tqdm(self.folders, desc=f"reading {self.image_root.name}", unit="class", leave=False, disable=None)
        for class_folder, label in progress:
            for folder, modified, names in walk_images(self.image_root, class_folder):
                times[folder] = modified
                if names:
                    number = folders.setdefault(folder, len(folders))
                    yield [number] * len(names), [label] * len(names), names
        if not folders:
            raise UserError(f"{self.source} has no images in its class folders")


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: a known suffix in any case, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, hidden ones left out, sorted. Raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from None


def find_classes(root: Path) -> list[tuple[str, str]]:
    """The classes below ``root``: (name, folder relative to ``root``), in the order of the class indices.

    A class is a folder of ``root``, by the order of the sorted names, and the images anywhere below it are its images.
    A folder without images is a class, too. Hidden folders are passed over.

    Raises:
        UserError: the folder cannot be read.
    """
    return [(name, name) for name in subfolders(root)]


def find_split(
    root: str | os.PathLike,
    split: str,
    images: str = "auto",
    find_classes: Callable[[Path], list[tuple[str, str]]] = find_classes,
    same_class: Callable[[str], Hashable] = str,
) -> ClassFolders:
    """Finds class folders ``split/CLASS/…``, in ``root`` or in one of its folders; the classes of every split are those
    of ``train`` where there is one.

    Args:
        split: the folder's name.
        images: "auto"; another size is not found, as class folders have no known one.
        find_classes: as the function of this name, for a set that nests its folders, or has an order of its own.
        same_class: what two names of one class have in common.

    Raises:
        SplitNotFound: there are no class folders; the message says where they were looked for.
        UserError: the split has a class that ``train`` lacks, or several folders of ``root`` have such a split.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise SplitNotFound(f"the data folder {root} {'is a file' if root.exists() else 'does not exist'}")
    bases = [base for base in (root, *(root / name for name in subfolders(root))) if _has_folders(base / split)]
    if bases and bases[0] != root and len(bases) > 1:
        raise UserError(
            f"{', '.join(str(base) for base in bases[:5])} each have a folder {split!r} with class folders: "
            "name one of them as the data folder"
        )
    if not bases:
        raise SplitNotFound(f"there are no class folders {split}/<class> in {root} or in one of its folders")
    base = bases[0]
    if images != "auto":
        raise SplitNotFound(
            f"{base / split} has class folders, whose size is not known: they are not taken for {images!r} images, "
            "only for 'auto'"
        )
    found = find_classes(base / split)
    classes = found if split == TRAIN or not _has_folders(base / TRAIN) else find_classes(base / TRAIN)
    labels = {same_class(name): label for label, (name, _) in enumerate(classes)}
    unknown = [folder for name, folder in found if same_class(name) not in labels]
    if unknown:
        present = {same_class(name) for name, _ in found}
        missing = [name for name, _ in classes if same_class(name) not in present]
        raise UserError(
            f"{base / split} has classes that {base / TRAIN} lacks: {shortened(unknown)}."
            + (f" {split} in turn has no folder for: {shortened(missing)}." if missing else "")
            + " Rename the folders, or move away what is no class"
        )
    folders = tuple((folder, labels[same_class(name)]) for name, folder in found)
    return ClassFolders(split, base / split, [name for name, _ in classes], folders)


def walk_images(root: Path, folder: str) -> Iterator[tuple[str, int, list[bytes]]]:
    """The images in ``folder`` and the folders below it.

    Yields:
        (folder relative to ``root``, its modification time in ns, the names of the images in it, sorted). The time
        is taken before the folder is read: a file that comes later changes it.

    Raises:
        UserError: a folder cannot be read, or folders are nested without end.
    """
    if folder.count("/") > MAX_DEPTH + 2:
        raise UserError(f"{root / folder}: folders are nested too deeply; does a link point back up?")
    try:
        modified = os.stat(root / folder).st_mtime_ns
        with os.scandir(root / folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        names = sorted(os.fsencode(entry.name) for entry in visible if is_image_name(entry.name) and not entry.is_dir())
        below = sorted(entry.name for entry in visible if entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read the folder {error.filename}: {error.strerror}") from None
    yield folder, modified, names
    for name in below:
        yield from walk_images(root, f"{folder}/{name}")


def shortened(names: list[str], shown: int = 10) -> str:
    """The first few of many names, and how many there are, for a message."""
    return ", ".join(names[:shown]) + (f", … ({len(names)} in all)" if len(names) > shown else "")


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and bool(subfolders(folder))
