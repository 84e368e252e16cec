"""The one exception for what a person can put right, and the guard that prints it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + 2  # the shell's own number for a process ended by SIGINT
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)


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
        ``error: …``, and where a disk is full or a file may not be written or read; 130 after Ctrl-C; 0 where
        the reader of our output left (``… | head``). Under torchrun only the first process prints a
        `UserError`: the others make the same mistake, and eight copies of a message hide it.

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
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit and would complain there; give it somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        print(f"error: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0 if code is None else code
