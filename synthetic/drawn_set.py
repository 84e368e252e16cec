"""Sets of pictures that a generator draws: kept while whole, made anew when not, and never over other files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from engine.errors import UserError


def make_drawn_set(
    root: str | os.PathLike,
    settings: dict,
    names: Sequence[str],
    files: Callable[[], Iterable[tuple[str, bytes]]],
    *,
    marker: str,
    replaced: str,
) -> bool:
    """Makes a set in `root`, or keeps it if a complete one of the same settings is there.

    The set is complete once its marker holds the settings and the digest of all its files, which is
    compared when it is found again; an interrupted or damaged set is made anew.

    Args:
        root: a folder of its own; made if missing.
        settings: all that the files follow from, of JSON's types; "generator" is the drawing's name and version,
            "se-backbones-shapes/1".
        names: every file of the set, relative to `root`.
        files: gives (name, content) of each of them, in that order.
        marker: name of the file in `root` that says what the set is; its stem is what messages call the set.
        replaced: a regular expression for the names of pictures in sets of this kind. Those of an earlier set that
            the new one lacks are removed.

    Returns:
        whether it was drawn; False where it was kept.

    Raises:
        UserError: `root` is a file or holds something else, or the disk cannot be written to.
    """
    root, what = Path(root), Path(marker).stem
    marker = root / marker
    kind = settings["generator"].rsplit("/", 1)[0] + "/"
    try:
        if _is_complete(marker, kind, settings, names):
            return False
        _make_room(marker, kind, names, replaced, what)
        # From here on the folder is ours, which this marker says; without a digest it says that it is not
        # complete.
        _write(marker, compact_json(settings))
        digest = hashlib.sha256()
        for path, content in tqdm(
            files(), desc=f"drawing {what} in {root}", total=len(names), unit=" files", disable=None
        ):
            _write(root / path, content)
            digest.update(content)
        _write(marker, compact_json({**settings, "sha256": digest.hexdigest()}))
    except OSError as error:
        raise UserError(f"{what}: cannot write {error.filename or root}: {error.strerror or error}") from None
    return True


def compact_json(value: dict) -> bytes:
    """A JSON file's content, the same bytes everywhere."""
    return (json.dumps(value, separators=(",", ":")) + "\n").encode("ascii")


def _is_complete(marker: Path, kind: str, settings: dict, names: Sequence[str]) -> bool:
    """Whether there is exactly this set, every byte of it."""
    found = _read_marker(marker, kind)
    if found is None or "sha256" not in found or {**settings, "sha256": found["sha256"]} != found:
        return False
    digest = hashlib.sha256()
    for name in names:
        try:
            digest.update((marker.parent / name).read_bytes())
        except OSError:
            return False
    return digest.hexdigest() == found["sha256"]


def _read_marker(marker: Path, kind: str) -> dict | None:
    """The marker of a set of this kind, complete or not; None where there is none."""
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and str(found.get("generator", "")).startswith(kind) else None


def _make_room(marker: Path, kind: str, names: Sequence[str], replaced: str, what: str) -> None:
    """Sees that the folder is new, empty or ours, and removes our pictures that the new set, `names`, lacks.

    Those that it has are left to be replaced one by one: another process may have just drawn the same set.
    """
    root = marker.parent
    if root.exists() and not root.is_dir():
        raise UserError(f"{what}: {root} is a file; name a folder")
    content = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if content and _read_marker(marker, kind) is None:
        raise UserError(
            f"{what}: {root} holds files that were not drawn here ({', '.join(sorted(content)[:3])}, ...) "
            "and is left alone; name another folder, or an empty one"
        )
    wanted = set(names)
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name not in wanted and re.fullmatch(replaced, name) and path.is_file():
            path.unlink(missing_ok=True)
    for folder in {(root / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all for other readers. Not flushed: the digest finds what a power cut lost."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
