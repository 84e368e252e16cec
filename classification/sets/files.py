"""The files that a data set is published as: in a folder, or still in the archive that is published."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.errors import UserError

_BLOCK_BYTES = 2**20
_MEMBERS_LOOKED_AT = 3  # of an archive, to tell what it is


@dataclass(frozen=True)
class PublishedFiles:
    """Files of a folder, or of one folder in a tar of any packing.

    Attributes:
        path: the folder, or the archive.
        packed: it is an archive.
    """

    path: Path
    packed: bool = False

    def contents(self, names: Sequence[str], whole: bool = True) -> Iterator[tuple[str, bytes]]:
        """(name, content) of each file, in the order of ``names``. Of an archive they are all held in memory, as it can
        be read in its own order alone.

        Args:
            whole: read an archive to its end, where the checksum of all of it stands; else as far as they go.

        Raises:
            UserError: one is missing, or cannot be read.
        """
        if self.packed:
            found = self._unpacked(set(names), whole)
            yield from ((name, found.pop(name)) for name in names)
            return
        for name in names:
            with self._reading():
                content = (self.path / name).read_bytes()
            yield name, content

    def size(self, name: str) -> int:
        """Bytes of a file, or of the archive that it is in. Raises as ``contents``."""
        with self._reading():
            return os.stat(self.path if self.packed else self.path / name).st_size

    def times(self, names: Sequence[str]) -> dict[str, int]:
        """Path and modification time, in ns, of each file, or of the archive. Raises as ``contents``."""
        paths = [self.path] if self.packed else [self.path / name for name in names]
        with self._reading():
            return {os.path.abspath(path): os.stat(path).st_mtime_ns for path in paths}

    def where(self, name: str) -> str:
        """What messages call a file."""
        return str(self.path / name)

    def _unpacked(self, names: set[str], whole: bool) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with self._reading(), tarfile.open(self.path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and name in names:
                    found[name] = archive.extractfile(member).read()
                if len(found) == len(names) and not whole:
                    return found
            while archive.fileobj.read(_BLOCK_BYTES):
                pass
        if missing := sorted(names - found.keys()):
            raise UserError(f"{self.path} lacks {', '.join(missing)}: is it another archive, or was it cut off?")
        return found

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(f"there is no file {error.filename}: the set is not whole. Unpack it again") from None
        except OSError as error:  # gzip's errors of damaged data are among them
            named = error.filename or self.path
            raise UserError(f"cannot read {named}: {error.strerror or error}. Is it damaged? Get it again") from None
        except (EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{self.path} is cut off or damaged ({error}): get it again") from None


def folder_in(path: Path) -> str:
    """The folder that the first files of a tar of any packing lie in; empty where it is no tar, or has none."""
    try:
        with tarfile.open(path) as archive:
            for _, member in zip(range(_MEMBERS_LOOKED_AT), archive, strict=False):
                parts = [part for part in PurePosixPath(member.name).parts if part != "."]
                if parts and (member.isdir() or len(parts) > 1):
                    return parts[0]
    except Exception:  # whatever it is, another reader says what is wrong with it
        return ""
    return ""
