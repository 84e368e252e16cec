"""A split below DATA.ROOT, whatever form the data set has."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from classification.index import class_folders
from classification.index.folders import folder_at
from classification.index.split import Split, SplitNotFound, UnsortedImages
from classification.sets.imagenet import base_of, find_flat
from classification.sets.official import find_official
from classification.shards.split import find_shards
from engine.errors import UserError


def find_split(root: str, split: str, images: str = "auto") -> Split:
    """Finds a split, the first that is there of:

    1. shards that ``tools/make_shards.py`` made (``classification.shards``);
    2. class folders ``split/CLASS/…`` in ``root`` or in one of its folders (``classification.index.class_folders``);
    3. ImageNet's flat folder ``split/*.JPEG`` with a list of its labels (``classification.sets.imagenet``);
    4. the official files of CIFAR-10, CIFAR-100 or STL-10, unpacked or not (``classification.sets.official``).

    ``root`` is a folder; or an archive (zip, tar) of one with 2 or 3, which is read in place; or the archive of 4.

    Args:
        images: "auto"; another size is that of Places365's, and is not found here.

    Raises:
        SplitNotFound: there is nothing of it; the message says what was looked for, and where.
        UserError: something of it is there, and wrong.
    """
    path = Path(root).expanduser()
    if not path.exists():
        raise SplitNotFound(f"the data folder {path} does not exist")
    if path.is_file():
        with suppress(SplitNotFound):
            return find_official(path, split)
    if (shards := find_shards(path, split, images)) is not None:
        return shards
    top = folder_at(path)
    ways = [partial(class_folders.find_split, base_of(top), split, images), partial(find_flat, top, split)]
    failures: list[UserError] = []
    for find in [*ways, partial(find_official, path, split)] if path.is_dir() else ways:
        try:
            return find()
        except (SplitNotFound, UnsortedImages) as error:
            failures.append(error)
    tried = "\n".join(f"  - {error}" for error in failures)
    kind = UnsortedImages if any(isinstance(error, UnsortedImages) for error in failures) else SplitNotFound
    raise kind(f"no split {split!r} in {path}:\n{tried}")
