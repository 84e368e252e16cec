"""Files that are either whole or not there: whatever is written is written beside its place and renamed into it."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

MAX_LINKS = 40  # as the Linux kernel follows them
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/(?:self|thread-self|\d+)/fd/(\d+)")
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_PROBE_BYTES = 1 << 20


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in ``path``'s folder (made if missing) to write to. On leaving, what was written is
    flushed to the disk and becomes ``path``: a reader, or a crash, finds the old file or the new one.

    The temporary name keeps the suffix, since image and video writers choose the format by it, and begins with a dot,
    so that a folder listing does not take it for a result. When the body raises, the temporary file is removed and
    whatever was at ``path`` stays as it was.

    - A link stays, and the file that it leads to is written. A hard link is one no more: its other names keep the old
      content.
    - A file that is replaced keeps its permissions, and its owner where this user may give files away.
    - Into a device, a pipe, or an open file (``/dev/stdout``, ``/dev/fd/N``) what was written is copied at the end.

    Raises:
        OSError: the place cannot be written to, or the disk is full, also where the body's own error does not say so.
            It names ``path``.
    """
    with naming(path):
        place = _follow(Path(path))
        if _is_special(place):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / f"part{_suffix(place)}"
                yield temporary
                with open(temporary, "rb") as file, _open_special(place) as target:
                    shutil.copyfileobj(file, target)
            return
        _make_folder(place.parent)
        _check_replaceable(place)
        temporary = place.with_name(_temporary_name(place))
        try:
            try:
                yield temporary
            except Exception as error:
                _raise_disk_error(error, temporary)
                raise
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            _replace(temporary, place)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, data: bytes | str) -> Path:
    """Writes bytes, or a text as UTF-8, by ``atomic_path``; returns the path."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return Path(path)


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """An OSError that the block raises names this path: a temporary name, or none, says nothing to a person."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def probe_disk(path: Path) -> None:
    """Raises the OSError that a file's disk has for its next megabyte; the file stays as it is. For writers that say
    nothing of a full disk (OpenCV's videos), or not that it was one."""
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        block = memoryview(bytes(_PROBE_BYTES))
        try:
            while block:
                block = block[file.write(block) :]
            os.fsync(file.fileno())
        finally:
            file.truncate(size)


def _raise_disk_error(error: Exception, temporary: Path) -> None:
    """Raises the OSError behind a writer's error, if there is one: one that it was raised from, one that it tells of,
    as Rust's libraries do, or what the disk itself says."""
    chain = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno is not None:
            raise chain
        chain = chain.__cause__ or chain.__context__
    if told := re.search(r"\(os error (\d+)\)", str(error)):
        raise OSError(int(told[1]), os.strerror(int(told[1]))) from error
    if isinstance(error, RuntimeError | OSError) and temporary.exists():
        probe_disk(temporary)


def _follow(path: Path) -> Path:
    """What a path leads to through links; it need not exist. Open files, which are links in /proc, are not followed."""
    for _ in range(MAX_LINKS):
        if _descriptor(path) is not None or not path.is_symlink():
            return path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _descriptor(path: Path) -> int | None:
    """The number of the open file of this process that a path stands for, if it does."""
    name = os.path.abspath(path)
    if name in _STREAMS:
        return _STREAMS[name]
    found = _DESCRIPTOR.fullmatch(name)
    return int(found[1] or found[2]) if found else None


def _is_special(place: Path) -> bool:
    """Whether a place is an open file, a device, a pipe or a socket: something that a file must not replace."""
    if _descriptor(place) is not None:
        return True
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _open_special(place: Path) -> BinaryIO:
    number = _descriptor(place)
    if number is None:
        return open(place, "wb")
    for stream in (sys.stdout, sys.stderr):  # what was printed before comes first
        stream.flush()
    return os.fdopen(os.dup(number), "wb")  # opened anew, a file would be written from its beginning


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def _check_replaceable(place: Path) -> None:
    """Renaming asks neither whether a file may be written nor, on some systems, whether it is one."""
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file", str(place))
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def _replace(temporary: Path, place: Path) -> None:
    """Renames a file over another one, which hands its permissions and owner on."""
    try:
        old = place.stat()
    except FileNotFoundError:
        pass
    else:
        new = temporary.stat()
        if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            with suppress(PermissionError):  # another user's, in a folder of both
                os.chown(temporary, old.st_uid, old.st_gid)
        os.chmod(temporary, stat.S_IMODE(old.st_mode))
    try:
        os.replace(temporary, place)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        shutil.copyfile(temporary, place)  # a file that is mounted, into a container say, cannot be replaced


def _temporary_name(place: Path) -> str:
    """Short, ASCII and nobody else's, whatever the file's own name."""
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", place.stem)[:80]
    return f".{stem}.{secrets.token_hex(4)}.part{_suffix(place)}"


def _suffix(place: Path) -> str:
    return place.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,16}", place.suffix) else ""
