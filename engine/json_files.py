"""Reading and writing of JSON files, with errors that a person can act on."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import UserError
from se_backbones.files import write_atomically


def read_json(path: str | os.PathLike, what: str = "JSON file") -> Any:
    """Parses the JSON file at `path`; `what` names its role in messages ("annotations", "results").

    msgspec reads what is JSON by the letter, in a third of the time; the rest, NaN say, is for Python's own reader to
    take or to find fault with. UTF-8, UTF-16 and UTF-32 are told apart by their mark or their first bytes, as JSON's
    own standard has it (RFC 4627, section 3).

    Raises:
        UserError: the file is absent, a folder, unreadable, of another encoding, or not JSON (with line and column).
    """
    path = Path(path)
    content = read_content(path, what)
    with collections_paused():
        try:
            return msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _parse(content, path, what)


def read_content(path: str | os.PathLike, what: str = "JSON file") -> bytes:
    """The bytes of a file. Raises UserError, as `read_json`, where it is absent, a folder or unreadable."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{what}: there is no file {path}") from None
    except IsADirectoryError:
        raise UserError(f"{what}: {path} is a folder; name the JSON file in it") from None
    except OSError as error:
        raise UserError(f"{what}: {path} cannot be read: {error.strerror or error}") from None


@contextmanager
def collections_paused() -> Iterator[None]:
    """Python's garbage collector counts what is made and goes through all of it again and again, which takes longer
    than the reading of a large file: nothing that a parser makes is garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parse(content: bytes, path: Path, what: str) -> Any:
    """By Python's own reader, which says where a mistake is."""
    try:
        text = content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: {path} {_not_unicode(content, error)}") from None
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
    except ValueError:  # Python's limit of digits, and it does not say where
        number = max(re.finditer(r"\d+", text), key=lambda match: match.end() - match.start())
        line = text.count("\n", 0, number.start()) + 1
        column = number.start() - text.rfind("\n", 0, number.start())
        raise UserError(
            f"{what}: {path}: line {line}, column {column}: a whole number of {number.end() - number.start()} digits "
            "is none that anything can be computed with"
        ) from None


def _not_unicode(content: bytes, error: UnicodeDecodeError) -> str:
    """What to say of a file that is no Unicode text: one of an older encoding, or no text at all."""
    if not content.lstrip().startswith((b"{", b"[")):
        return (
            f"is not a JSON text: byte {error.start} is not {error.encoding.upper()}. "
            "Is it an archive or a picture? Unpack it or name the JSON file."
        )
    line = content.count(b"\n", 0, error.start) + 1
    near = repr(content[max(error.start - 20, 0) : error.start + 10])[2:-1]
    return (
        f"is not UTF-8, which JSON has to be: byte {error.start} (line {line}, near {near}). It was written in another "
        "encoding, cp1252 or GBK say: convert it (iconv -f CP1252 -t UTF-8 OLD.json > NEW.json) or export it as UTF-8"
    )


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 1) -> Path:
    """Writes `value` as JSON so that `path` holds either the old content or all of the new one.

    NaN and infinities are refused (ValueError): they are not JSON.

    Raises:
        OSError: the place cannot be written to; it names the path.
    """
    return write_atomically(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def show_json(value: Any, path: str | os.PathLike | None = None) -> None:
    """Prints `value` as JSON, and writes it to `path`, as `write_json`, where there is one."""
    print(json.dumps(value, indent=1))
    if path:
        write_json(path, value)
