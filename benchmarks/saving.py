"""What a checkpoint costs a training's steps: the file written at once, and written beside them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from benchmarks.measure import Setting
from engine.timing import medians, ratio
from engine.train.checkpoint import save_checkpoint
from engine.train.saving import CheckpointSaver
from se_backbones import create_backbone

NETWORK = "se_resnet50"


def saving(setting: Setting) -> dict:
    """How long a step waits for a checkpoint of se_resnet50 with SGD's momentum: written at once, and copied for a
    thread that writes it; in turn, in the folder for temporary files."""
    network = create_backbone(NETWORK).to(setting.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    times: dict[str, list[float]] = {"at once": [], "beside": [], "beside, until it is there": []}
    with tempfile.TemporaryDirectory() as folder, CheckpointSaver() as saver:
        path = Path(folder) / "checkpoint_0000001.pth"
        for turn in range(setting.rounds + 1):
            begin = _now(setting)
            save_checkpoint(path, _state(network, optimizer))
            at_once = time.perf_counter()
            saver.save(path, _state(network, optimizer), 1)
            copied = time.perf_counter()
            saver.wait()
            if turn:  # the first takes the memory that the others find
                seconds = at_once - begin, copied - at_once, time.perf_counter() - at_once
                for name, value in zip(times, seconds, strict=True):
                    times[name].append(value)
        megabytes = path.stat().st_size / 1e6
    return {
        "megabytes": round(megabytes, 1),
        "seconds": medians(times),
        "times_as_long": ratio(times, "at once", "beside"),
    }


def _state(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    return {"model": network.state_dict(), "optimizer": optimizer.state_dict()}


def _now(setting: Setting) -> float:
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)
    return time.perf_counter()
