"""Files that are either whole or not there: whatever is written is written beside its place and renamed into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in ``path``'s folder (made if missing) to write to. On leaving, what was written is
    flushed to the disk and becomes ``path``: a reader, or a crash, finds the old file or the new one.

    The temporary name keeps the suffix, since image and video writers choose the format by it, and begins with a dot,
    so that a folder listing does not take it for a result. When the body raises, the temporary file is removed and
    whatever was at ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Within a file system's 255 bytes, of which a character takes four at most; a suffix of more says nothing.
    suffix = path.suffix if len(path.suffix) <= 16 else ""
    temporary = path.with_name(f".{path.stem[:40]}.{os.getpid()}.part{suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, data: bytes | str) -> Path:
    """Writes bytes, or a text as UTF-8, by ``atomic_path``; returns the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return Path(path)
