"""The cache's folders: how those of an index are named, found and removed, whatever is in them."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

MAX_UNFINISHED_SECONDS = 24 * 3600  # that writing may take


def default_cache() -> Path:
    """Where indices lie that no folder is named for."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "se-backbones"


def index_folder(path: Path, identity: str) -> Path:
    """The folder of the index of this identity; ``path`` as for ``stored_indices``."""
    return path.with_name(f"{path.name}.{identity}")


def stored_indices(path: Path) -> list[Path]:
    """The folders of a split's indices, the newest first; ``path`` is what their names begin with."""
    found = []
    for folder in path.parent.glob(f"{glob.escape(path.name)}.*"):
        with suppress(OSError):  # just removed by the process that replaced it
            found.append((folder.stat().st_mtime_ns, folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def temporary_name(path: Path) -> Path:
    """A name for what is being written, or removed: no index's."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def discard(folder: Path) -> None:
    """Removes an index, all of it at once for other readers; who has mapped it keeps it."""
    temporary = temporary_name(folder)
    with suppress(OSError):
        folder.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Removes what a process left that was killed while it wrote."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > MAX_UNFINISHED_SECONDS:
                shutil.rmtree(folder)


def remove_as_owner(folder: Path, owner: int) -> None:
    """Removes a folder, in the process of this number alone."""
    if os.getpid() == owner:  # a forked worker that ends must not take it away from the others
        shutil.rmtree(folder, ignore_errors=True)
