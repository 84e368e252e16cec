"""The bytes of an archive, or of a shard, read in place by any number of processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from engine.errors import UserError

# Why the data of a file in an archive cannot be read in place; a member's ``kind`` is the position, 0 for those that
# can be.
STORED, LINK, PACKED, ENCRYPTED, SPARSE = range(5)
REFUSALS = {
    PACKED: "is packed (deflated)",
    ENCRYPTED: "is encrypted",
    SPARSE: "is stored as a sparse file",
}


class Member(NamedTuple):
    """A file or folder in an archive.

    Attributes:
        name: with "/"; a folder's ends with one.
        offset: where its data begin.
        size: of its data, in bytes.
        kind: STORED, or why its data cannot be read in place.
        target: of a hard link, the name of the file that it is as well.
    """

    name: bytes
    offset: int
    size: int
    kind: int = STORED
    target: bytes = b""


class Stamp(NamedTuple):
    """What tells an archive from what it was: its path, size in bytes, and modification time in ns."""

    path: str
    size: int
    modified: int


class UnreadablePiece(UserError):
    """A piece of an archive that the system cannot read.

    Attributes:
        why: in its words.
    """

    def __init__(self, file: str, error: OSError):
        self.why = error.strerror or str(error)
        super().__init__(f"cannot read {file}: {self.why}")


class _Descriptor:
    """An open file, closed when nobody has it any more."""

    def __init__(self, path: str):
        self.process, self.number = os.getpid(), os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self):
        if hasattr(self, "number"):
            os.close(self.number)


class ArchiveFile:
    """Reads pieces of an archive.

    Each process has a descriptor of its own, opened at its first reading: a fork or a pickle takes none along. No
    reading moves a position, so that threads may share one.

    After each reading the file's size and modification time are compared with those that it had when it was listed:
    half a microsecond, for tar and zip alike, and whatever was changed. (A zip's checksum of an image costs a hundred
    times that and tells nothing of a tar; names in headers stay the same where an image is exchanged for another.)

    Args:
        what: it is, for messages.
    """

    def __init__(self, stamp: Stamp, what: str = "archive"):
        self.stamp, self.what = stamp, what
        self._descriptor: _Descriptor | None = None

    def read(self, offset: int, size: int) -> bytearray:
        """``size`` bytes from ``offset`` on.

        Raises:
            UnreadablePiece: it cannot be read there.
            UserError: the archive is gone, was changed since it was listed, or ends before.
        """
        descriptor = self._descriptor
        if descriptor is None or descriptor.process != os.getpid():
            try:
                descriptor = self._descriptor = _Descriptor(self.stamp.path)
            except OSError as error:
                raise UserError(f"cannot open {self}: {error.strerror}") from None
        data, done = bytearray(size), 0
        try:
            while done < size and (part := os.preadv(descriptor.number, [memoryview(data)[done:]], offset + done)):
                done += part
            now = os.fstat(descriptor.number)
        except OSError as error:
            raise UnreadablePiece(str(self), error) from None
        if (now.st_size, now.st_mtime_ns) != self.stamp[1:]:
            raise UserError(
                f"{self} was changed while it was in use. Leave it as it is while a run reads it, and start again: it "
                "is then looked at anew (a training goes on with --resume)"
            )
        if done < size:
            raise UserError(f"{self} ends at byte {offset + done:,}, within what is said to be there")
        return data

    def __str__(self) -> str:
        return f"the {self.what} {self.stamp.path}"

    def __reduce__(self):
        return ArchiveFile, (self.stamp, self.what)


def stamp_of(path: str | os.PathLike) -> Stamp:
    """An archive as it is now. Raises UserError where it cannot be looked at."""
    try:
        now = os.stat(path)
    except OSError as error:
        raise UserError(f"cannot read the archive {path}: {error.strerror}") from None
    return Stamp(os.path.abspath(path), now.st_size, now.st_mtime_ns)


def damaged(path: str | os.PathLike, why: str) -> UserError:
    """What is said of an archive that is cut or damaged."""
    return UserError(
        f"{Path(path)} is a damaged archive: {why}. Was it cut off while it was copied? Get or make it again"
    )
