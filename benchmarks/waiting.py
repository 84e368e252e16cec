"""What a busy process beside a training costs, by how OpenMP's threads wait for each other."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.measure import Setting
from engine.errors import UserError

STEPS = 15
# The environment is read when PyTorch is imported, so that each measurement is a process of its own.
WAYS = {
    "ours": {},
    "libgomp's own": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
STEP = f"""
import statistics, sys, time
if sys.argv[1] == "ours":
    import engine
import torch
from se_backbones import create_backbone
torch.manual_seed(0)
bf16 = sys.argv[2] == "bf16"
model = create_backbone("se_resnet18").train().to(memory_format=torch.channels_last)
images = torch.randn(int(sys.argv[3]), 3, int(sys.argv[4]), int(sys.argv[4])).to(memory_format=torch.channels_last)
seconds = []
for _ in range({STEPS} + 3):
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        maps = model(images)
    maps.float().square().mean().backward()
    model.zero_grad(set_to_none=True)
    seconds.append(time.perf_counter() - begin)
print(statistics.median(seconds[3:]))
"""


def waiting(setting: Setting) -> dict:
    """A training step of se_resnet18 on a CPU, with another busy process and without, in processes of their own:
    OpenMP's threads waiting as the package sets it, as libgomp does by itself, and passively; and one thread alone."""
    if setting.device.type != "cpu":
        raise UserError("waiting is of CPUs: --device cpu")
    precision = "bf16" if setting.dtype == torch.bfloat16 else "fp32"
    times: dict[str, list[float]] = {f"{way}, {state}": [] for way in WAYS for state in ("quiet", "busy")}
    with tqdm(total=setting.rounds * len(times), desc="measuring", leave=False, disable=None) as bar:
        for _ in range(setting.rounds):
            for state in ("quiet", "busy"):
                with _busy_process() if state == "busy" else nullcontext():
                    for way, changes in WAYS.items():
                        times[f"{way}, {state}"].append(_seconds(way, changes, precision, setting))
                        bar.update()
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "busy_over_quiet": {way: round(medians[f"{way}, busy"] / medians[f"{way}, quiet"], 2) for way in WAYS},
        "quiet_over_libgomp": {
            way: round(medians[f"{way}, quiet"] / medians["libgomp's own, quiet"], 2) for way in WAYS
        },
    }


def _seconds(way: str, changes: dict[str, str], precision: str, setting: Setting) -> float:
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    }
    environment |= changes | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    words = [sys.executable, "-c", STEP, way, precision, str(setting.batch), str(setting.size)]
    return float(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)


@contextmanager
def _busy_process() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()
