"""How OpenMP's threads wait is settled before PyTorch is imported, unless the environment settles it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine import SPIN_COUNT

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "first", "expected"),
    [
        ({}, "", str(SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "5"}, "", "5"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "", "None"),
        ({}, "sys.modules['torch'] = None", "None"),  # too late
    ],
)
def test_the_environment_comes_first(given, first, expected):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {key: value for key, value in os.environ.items() if key not in names} | given
    code = f"import os, sys; {first or 'pass'}; import engine.errors; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_no_tool_imports_pytorch_before(tool):
    lines = (ROOT / "tools" / tool).read_text().splitlines()
    heavy = [number for number, line in enumerate(lines) if line.startswith(("import torch", "from torch"))]
    ours = [number for number, line in enumerate(lines) if line.startswith(("from engine", "import engine"))]
    assert not heavy or min(ours) < min(heavy)
