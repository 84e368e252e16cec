"""How OpenMP's threads wait for each other, which is settled when PyTorch is imported: before that, by ``engine``."""

import os
import sys

# Spins before a thread sleeps, unless the environment says something else. Where another process has a core, libgomp's
# own number, 300,000 or without end, makes each wait one for that process's time slice; sleeping at once costs a tenth
# of a step and more on a quiet machine. In bfloat16, whose regions are shorter, a quiet step gains a tenth and one
# beside a busy process loses a fifth; no way of waiting helps there as one thread does (`tools/benchmark.py waiting`).
SPIN_COUNT = 3_000

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
