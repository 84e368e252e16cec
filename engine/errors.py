"""The one exception for what a person can put right, and the guard that prints it."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + 2  # the shell's own number for a process ended by SIGINT

# What the system says of a path that was given, or of its disk: nothing that a traceback would explain.
_OF_A_PATH = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EROFS EIO EACCES EPERM ENOENT EEXIST EISDIR ENOTDIR ENAMETOOLONG ELOOP ENXIO "
    "EBUSY ETXTBSY ENODEV ESTALE EMFILE ENFILE".split()
}
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|not enough memory", re.IGNORECASE)
_LESS_MEMORY = (
    "Fewer or smaller images at a time need less: SOLVER.IMS_PER_BATCH (or SOLVER.ACCUMULATE, and "
    "MODEL.BACKBONE.RECOMPUTE) in training, TEST.IMS_PER_BATCH in evaluation, --batch-size in prediction"
)


class UserError(Exception):
    """Something the person at the keyboard can fix: a wrong path, key, file or set-up.

    Its message says what is wrong, where (file, key, image id) and what to do. Command lines print it without
    a traceback (see `main_guard`), so it has to make sense on its own.
    """


def main_guard(main: Callable[[], int | None]) -> int:
    """Run a command line's `main` and turn its outcome into an exit code.

    Use it as ``sys.exit(main_guard(main))``.

    Returns:
        what `main` returned (None counts as 0); 2 after a `UserError`, whose message goes to stderr as
        ``error: …``, where a disk is full or a file may not be written or read, and where there is too little memory;
        130 after Ctrl-C; 0 where the reader of our output left (``… | head``). Under torchrun only the first process
        prints a `UserError`: the others make the same mistake, and eight copies of a message hide it.

    Raises:
        every other exception, with its traceback: that is a bug, and the traceback is what a report needs.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names in escapes rather than none, on a console that has not their letters
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()  # here rather than at exit, where a broken pipe can no longer be caught
    except UserError as error:
        return _say(f"error: {error}", EXIT_USER_ERROR, everywhere=False)
    except KeyboardInterrupt:
        return _say("interrupted", EXIT_INTERRUPTED, everywhere=False)
    except BrokenPipeError:
        _silence(sys.stdout)
        return 0
    except (OSError, MemoryError, RuntimeError) as error:
        message = explain(error)
        if message is None:
            raise
        return _say(f"error: {message}", EXIT_USER_ERROR)
    return 0 if code is None else code


def explain(error: Exception) -> str | None:
    """What to say of an error that comes from this machine: of a path or its disk, or of too little memory. None where
    it says nothing to a person."""
    if isinstance(error, OSError):
        if error.errno == errno.ENOMEM:
            return f"out of memory ({error.strerror}). {_LESS_MEMORY}"
        return f"{_where(error)}: {error.strerror}" if error.errno in _OF_A_PATH else None
    text = str(error).strip()
    # PyTorch's errors of GPUs are a class of their own, and of CPUs a RuntimeError; NumPy's are a MemoryError.
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        told = f" ({text.splitlines()[0]})" if text else ""
        return f"out of memory{told}. {_LESS_MEMORY}"
    return None


def _where(error: OSError) -> str:
    """The path that an error is about; without one, it may be our output, which is full and would be again at exit."""
    if error.filename is not None:
        return os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
    try:
        print(flush=True)
    except OSError:
        _silence(sys.stdout)
        return "standard output"
    return "a file"


def _say(message: str, code: int, everywhere: bool = True) -> int:
    """Prints a last line to stderr, and returns the exit code. stderr may be full, or closed."""
    if everywhere or os.environ.get("RANK", "0") == "0":
        try:
            print(message, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            _silence(sys.stderr)
    with suppress(ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            _silence(sys.stdout)
    return code


def _silence(stream) -> None:
    """Python flushes its streams once more at exit and would complain there; give one somewhere to flush to."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
