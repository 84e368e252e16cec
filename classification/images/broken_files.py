"""Training files that cannot be read: each named once, listed in the run folder, and too many of them an error."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from classification.index.index import ImageIndex
from engine.errors import UserError
from engine.images.reading import MAX_PIXELS, UnreadableImage
from se_backbones.files import naming

logger = logging.getLogger(__name__)

BROKEN_FILES = "broken_files.jsonl"
MAX_SHOWN = 5


def broken_limit(size: int, max_share: float) -> int:
    """How many of ``size`` files may be broken where ``max_share`` of them may, 0..1. One is let pass whatever the
    share, unless that is 0: in a small set it would be more than any sensible share."""
    return max(int(size * max_share), 1) if max_share > 0 else 0


class BrokenFiles:
    """The broken files of a run, in ``broken_files.jsonl``: a line ``{"file": …, "error": …}`` each.

    All processes of a run append to the one list, and read what the others appended; a resumed run goes on with it.
    So the whole run's distinct files count, whichever process met them, and however often it was started; those that
    were mended in between do not.

    Args:
        run: the run folder.
        size: number of training images.
        max_share: of them that may be broken (DATA.MAX_BROKEN_SHARE), 0..1; see ``broken_limit``.
        max_pixels: that an image may have (INPUT.MAX_PIXELS); 0: any.
    """

    def __init__(self, run: Path, size: int, max_share: float, max_pixels: int = MAX_PIXELS):
        self.max_pixels = max_pixels
        self.path, self.size, self.max_share = Path(run) / BROKEN_FILES, size, max_share
        self.limit = broken_limit(size, max_share)
        self.names: dict[str, None] = {}  # in the order in which they were met
        self._read_to, self._torn = 0, False
        self._catch_up()

    def __len__(self) -> int:
        return len(self.names)

    def add(self, broken: Iterable[tuple[int, str]], index: ImageIndex) -> None:
        """Notes a batch's broken files, (position in the index, message) each; usually there are none.

        Raises:
            UserError: more than the share of all files is broken.
        """
        found = {index.name(position): message for position, message in broken}
        if not found:
            return
        self._catch_up()
        new = {name: message for name, message in found.items() if name not in self.names}
        for name, message in new.items():
            logger.warning("replaced by another image: %s", message)
            self.names[name] = None
        self._append(new)
        if len(self.names) > self.limit:
            self._drop_mended(index, keep=new)
        if len(self.names) > self.limit:
            shown = list(self.names)[-MAX_SHOWN:]
            raise UserError(
                f"{len(self.names):,} of {self.size:,} training images cannot be read, and DATA.MAX_BROKEN_SHARE "
                f"{self.max_share:g} allows {self.limit:,}. Among them: {', '.join(shown)}; all that were met so far "
                f"are in {self.path}. Get them again, or allow more"
            )

    def _drop_mended(self, index: ImageIndex, keep: Iterable[str]) -> None:
        """Those of an earlier start that can be read by now count no more."""
        for name in set(self.names).difference(keep):
            if (position := index.position(name)) is not None:
                with suppress(UnreadableImage):
                    index.read(position, self.max_pixels)
                    del self.names[name]

    def _append(self, new: dict[str, str]) -> None:
        if not new:
            return
        lines = "".join(json.dumps({"file": name, "error": message}) + "\n" for name, message in new.items())
        lines = "\n" * self._torn + lines
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), open(self.path, "ab", buffering=0) as file:
            file.write(lines.encode())  # in one piece, so that processes do not write into each other's lines

    def _catch_up(self) -> None:
        """Reads what was appended since the last time; a line that a kill cut off is passed over."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(self._read_to)
            for line in file:
                self._torn = not line.endswith(b"\n")
                if self._torn:
                    break
                self._read_to += len(line)
                try:
                    self.names[json.loads(line)["file"]] = None
                except (ValueError, KeyError, TypeError):
                    continue
