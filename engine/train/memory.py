"""Memory on CPUs: what a training step frees, the next one gets, without a detour through the system."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt's names for them in glibc's malloc.h
_PAD = 2**26  # bytes by which the heap grows at least


def keep_freed_memory() -> bool:
    """Has this process, and those it forks, keep the memory they free, to use it again; until the process ends.

    As it is, glibc hands blocks above 32 MiB, and what lies free at the heap's end, back to the system, which clears
    each page of them when it is touched the next time: seven percent of the processor time of a ResNet-18's training
    on a CPU. The most memory that is in use at any time decides what the process holds, as with a GPU's caching
    allocator.

    Returns:
        whether it does. False, and nothing changed, where the C library is not glibc, or the environment has
        settings for its allocator (``MALLOC_…`` or ``GLIBC_TUNABLES``): they hold.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(library, "gnu_get_libc_version"):  # others have a mallopt with other meanings
        return False
    settings = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: _PAD, _MMAP_MAX: 0}
    return all(library.mallopt(name, value) for name, value in settings.items())
