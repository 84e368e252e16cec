"""Sets without lists: a folder for each class, ``root/train/CLASS/*.jpg`` and ``root/val/CLASS/*.jpg``, on disk or in
an archive."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from tqdm import tqdm

from classification.index.archive import ArchiveFolder
from classification.index.folders import Folder, folder_at, modified, own_images, places, subfolders, walk_images
from classification.index.split import Batch, Split, SplitNotFound, UnsortedImages
from engine.errors import UserError
from engine.names import class_name, look_alike, printable
from engine.predict.image_files import IMAGE_SUFFIXES, describe_passed_over

TRAIN = "train"  # the split whose folders name the classes
IN_NO_CLASS = "images in no class folder"  # what those are counted under that are passed over for that


@dataclass(frozen=True)
class ClassFolders(Split):
    """A split whose folders are its classes.

    Attributes:
        image_root: the folder of the class folders, on disk or in an archive.
        folders: (folder relative to ``image_root``, class index) for each class.
    """

    image_root: Folder
    folders: tuple[tuple[str, int], ...]

    @property
    def source(self) -> str:
        """The folder of the class folders."""
        return str(self.image_root)

    def key(self) -> dict:
        """Classes and folders, and what counts as an image here; which files are in the folders, their modification
        times tell."""
        class_folders = list(map(list, self.folders))
        size = {} if self.archive is None else {"archive_bytes": self.archive.size}
        return {"classes": self.classes, "class_folders": class_folders, "suffixes": sorted(IMAGE_SUFFIXES), **size}

    def read(self, folders: dict[str, int], times: dict[str, int], passed_over: Counter[str]) -> Iterator[Batch]:
        """The images class by class; ``times`` are those of all folders, with or without images, or the archive's."""
        times["" if self.archive is None else self.archive.path] = modified(self.image_root)
        if loose := len(own_images(self.image_root)):
            passed_over[IN_NO_CLASS] += loose
        progress = tqdm(self.folders, desc=f"reading {self.image_root.name}", unit="class", leave=False, disable=None)
        for class_folder, label in progress:
            for folder, time, names in walk_images(self.image_root, class_folder, passed_over):
                if self.archive is None:
                    times[folder] = time
                if names:
                    number = folders.setdefault(folder, len(folders))
                    yield Batch(
                        [number] * len(names), [label] * len(names), names, *places(self.image_root / folder, names)
                    )
        if not folders:
            among = f"; passed over: {describe_passed_over(passed_over)}" if passed_over else ""
            raise UserError(f"{self.source} has no images in its class folders{among}")


def find_classes(root: Folder) -> list[tuple[str, str]]:
    """The classes below ``root``: (name, folder relative to ``root``), in the order of the class indices.

    A class is a folder of ``root``, by the order of the sorted names, and the images anywhere below it are its images.
    A folder without images is a class, too. Hidden folders are passed over. The name is ``engine.names.class_name`` of
    the folder's.

    Raises:
        UserError: two folders for one class, or the folder cannot be read.
    """
    return sorted(one_folder_each(root, [(class_name(folder), folder) for folder in subfolders(root)]).values())


def one_folder_each(
    root: Folder, found: list[tuple[str, str]], same_class: Callable[[str], Hashable] = str
) -> dict[Hashable, tuple[str, str]]:
    """The (name, folder) of each class by what its names have in common. Raises UserError where two folders are one
    class."""
    by_class: dict[Hashable, tuple[str, str]] = {}
    for name, folder in found:
        other = by_class.setdefault(same_class(name), (name, folder))[1]
        if other != folder:
            shown = (printable(one) if one.isascii() else ascii(one) for one in (other, folder))
            raise UserError(f"{root}: the folders {' and '.join(shown)} are both the class {name}; keep one of them")
    return by_class


def find_split(
    root: str | os.PathLike | Folder,
    split: str,
    images: str = "auto",
    find_classes: Callable[[Folder], list[tuple[str, str]]] = find_classes,
    same_class: Callable[[str], Hashable] = str,
) -> ClassFolders:
    """Finds class folders ``split/CLASS/…``, in ``root`` or in one of its folders; the classes of every split are those
    of ``train`` where there is one.

    Args:
        root: a folder, or an archive of one (zip, tar) that is read in place.
        split: the folder's name.
        images: "auto"; another size is not found, as class folders have no known one.
        find_classes: as the function of this name, for a set that nests its folders, or has an order of its own.
        same_class: what two names of one class have in common.

    Raises:
        SplitNotFound: there are no class folders; the message says where they were looked for.
        UnsortedImages: there is a folder with images of the split, and no class folders in it.
        UserError: the split has a class that ``train`` lacks, several folders of ``root`` have such a split, two
            folders are one class, or the classes seem to lie one level further down.
    """
    root = root if isinstance(root, ArchiveFolder) else folder_at(root)
    if not root.is_dir():
        raise SplitNotFound(f"the data folder {root} does not exist")
    around = [root, *(root / name for name in subfolders(root))]
    bases = [base for base in around if _has_folders(base / split)]
    if bases and bases[0] != root and len(bases) > 1:
        raise UserError(
            f"{', '.join(str(base) for base in bases[:5])} each have a folder {split!r} with class folders: "
            "name one of them as the data folder"
        )
    if not bases:
        for folder in (base / split for base in around):
            if folder.is_dir() and (loose := own_images(folder)):
                raise UnsortedImages(
                    f"{folder} has {len(loose):,} image{'s' * (len(loose) > 1)} and no class folders: put them into "
                    f"folders of their classes, {split}/<class>/…"
                )
        raise SplitNotFound(f"there are no class folders {split}/<class> in {root} or in one of its folders")
    base = bases[0]
    if images != "auto":
        raise SplitNotFound(
            f"{base / split} has class folders, whose size is not known: they are not taken for {images!r} images, "
            "only for 'auto'"
        )
    found = find_classes(base / split)
    other = split == TRAIN or not _has_folders(base / TRAIN)
    classes = found if other else find_classes(base / TRAIN)
    if len(classes) == 1:
        _check_level(base / (split if other else TRAIN), classes[0][1])
    labels = {same_class(name): label for label, (name, _) in enumerate(classes)}
    unknown = [folder for name, folder in found if same_class(name) not in labels]
    if unknown:
        present = {same_class(name) for name, _ in found}
        missing = [name for name, _ in classes if same_class(name) not in present]
        alike = look_alike(unknown, missing)
        raise UserError(
            f"{base / split} has classes that {base / TRAIN} lacks: {shortened(unknown)}."
            + (f" {split} in turn has no folder for: {shortened(missing)}." if missing else "")
            + (f" Nearly the same: {alike}." if alike else "")
            + " Rename the folders, or move away what is no class"
        )
    folders = tuple((folder, labels[same_class(name)]) for name, folder in found)
    return ClassFolders(split, base / split, [name for name, _ in classes], folders)


def shortened(names: list[str], shown: int = 10) -> str:
    """The first few of many names, and how many there are, for a message."""
    return ", ".join(map(printable, names[:shown])) + (f", … ({len(names)} in all)" if len(names) > shown else "")


def _has_folders(folder: Folder) -> bool:
    return folder.is_dir() and bool(subfolders(folder))


def _check_level(root: Folder, folder: str) -> None:
    """Refuses one class alone that has no images but several folders: ``train/images/<class>/…``."""
    if not own_images(root / folder) and len(below := subfolders(root / folder)) > 1:
        raise UserError(
            f"{root} has one class folder alone, {printable(folder)}, with the folders {shortened(below)} in it and no "
            "images of its own. If those are the classes, move them one level up; else put the images together"
        )
