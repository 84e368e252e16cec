"""A disk without room, for tests, without one."""

import resource
from contextlib import contextmanager


@contextmanager
def largest_file(size):
    """No file grows beyond ``size`` bytes: a write fails in the middle (EFBIG), as on a full disk. The signal that
    comes with it is one that Python ignores."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
