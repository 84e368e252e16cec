"""What lies in a folder, to see whether anything has changed it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def digest(folder: Path) -> dict[str, str]:
    """Each path below a folder → a hash of its content; of a link, where it points to."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found
