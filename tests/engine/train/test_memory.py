"""Freed memory is used again: a block that is made and freed over and over touches new pages once."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from engine.train.memory import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(b"x") * (64 << 20)
print(int(kept), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin) * resource.getpagesize() / (64 << 20))
"""


def run(*arguments, **settings):
    """Whether memory is kept, and how many times the block's memory was asked of the system."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    said = subprocess.run(command, env={**clean, **settings}, stdout=subprocess.PIPE, text=True, check=True).stdout
    kept, times = said.split()
    return bool(int(kept)), float(times)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is meant")
def test_a_freed_block_is_used_again():
    kept, times = run("keep")
    assert kept
    assert times < 1.5
    assert run("do not")[1] > 15  # each time anew: what it is for


@pytest.mark.parametrize("name, value", [("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")])
def test_settings_of_the_environment_hold(name, value):
    assert run("keep", **{name: value})[0] is False
