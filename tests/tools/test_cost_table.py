"""The cost table on the command line."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*words):
    return subprocess.run(
        [sys.executable, "tools/cost_table.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=200
    )


def test_a_named_backbone_is_shown_beside_the_paper():
    done = run("se_resnet50_caffe")
    assert done.returncode == 0, done.stderr
    assert "28.088" in done.stdout and done.stdout.rstrip().endswith("3.87   -0.010")


def test_an_unknown_name_gets_the_nearest(call):
    done = call("cost_table", "se_resnet5")
    assert done.returncode == 2 and "se_resnet50" in done.stderr and "Traceback" not in done.stderr
