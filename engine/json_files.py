"""Reading and writing of JSON files, with errors that a person can act on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from engine.errors import UserError


def read_json(path: str | os.PathLike, what: str = "JSON file") -> Any:
    """Parses the JSON file at `path`; `what` names its role in messages ("annotations", "results").

    Raises:
        UserError: the file is absent, a folder, unreadable, not UTF-8, or not JSON (with line and column).
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{what}: there is no file {path}") from None
    except IsADirectoryError:
        raise UserError(f"{what}: {path} is a folder; name the JSON file in it") from None
    except OSError as error:
        raise UserError(f"{what}: {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what}: {path} is not a JSON text: byte {error.start} is not UTF-8. "
            "Is it an archive or a picture? Unpack it or name the JSON file."
        ) from None
    if not text.strip():
        raise UserError(f"{what}: {path} is empty")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at_end = " (the end of the file: was it cut off?)" if error.pos >= len(text.rstrip()) else ""
        raise UserError(
            f"{what}: {path} is not valid JSON: line {error.lineno}, column {error.colno}{at_end}: {error.msg}"
        ) from None
    except RecursionError:
        raise UserError(f"{what}: {path} is nested too deeply") from None


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> Path:
    """Writes `value` as JSON so that `path` holds either the old content or all of the new one.

    NaN and infinities are refused (ValueError): they are not JSON.

    Raises:
        UserError: the place cannot be written to.
    """
    from se_backbones.files import write_atomically  # here: se_backbones imports torch, which reading does not need

    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    try:
        return write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None
