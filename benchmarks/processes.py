"""Training steps in one process and in two that share each batch, in turn on the same machine."""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.measure import Setting
from engine.errors import UserError
from engine.json_files import read_json, write_json
from engine.timing import medians, ratio
from se_backbones import create_backbone

NETWORK = "se_resnet18"
STEPS = 3  # in a turn


def processes(setting: Setting) -> dict:
    """Training steps of se_resnet18 on the same batch by one process and by two of half the batch each, joined by gloo,
    one thread each, in turn: what the second core brings, and what summing the gradients costs."""
    if setting.batch % 2:
        raise UserError("--batch must be even: two processes share it")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (folder, NETWORK, setting.batch, setting.size, setting.rounds), nprocs=2)
        wall, processor = (read_json(Path(folder) / f"{kind}.json", "the times") for kind in ("wall", "processor"))
    images = STEPS * setting.batch
    return {
        "network": NETWORK,
        "gradient_megabytes": round(sum(p.numel() for p in create_backbone(NETWORK).parameters()) * 4e-6, 1),
        "images_per_second": {name: round(images / seconds, 2) for name, seconds in medians(wall).items()},
        "processor_seconds_an_image": {name: round(value / images, 4) for name, value in medians(processor).items()},
        "times_as_many": ratio(wall, "one", "two"),
        "processor_time": ratio(processor, "two", "one"),
    }


def _process(rank: int, folder: str, name: str, batch: int, size: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    layout = {"memory_format": torch.channels_last}  # this and the buffers as in training
    alone, one_more = (create_backbone(name, num_classes=10).to(**layout) for _ in range(2))
    with warnings.catch_warnings():  # as the trainer does
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        joined = DistributedDataParallel(one_more, broadcast_buffers=False)
    images = torch.randn(batch, 3, size, size).to(**layout)
    share = images.chunk(2)[rank]
    wall: dict[str, list[float]] = {"one": [], "two": []}
    processor: dict[str, list[float]] = {"one": [], "two": []}
    for turn in range(rounds + 1):
        for name, network, seen in (("one", alone, images), ("two", joined, share)):
            dist.barrier()
            begin, used = time.perf_counter(), time.process_time()
            if name == "two" or rank == 0:
                _train(network, seen)
            spent = torch.tensor([time.process_time() - used], dtype=torch.float64)
            dist.all_reduce(spent)  # which waits for both
            if turn:  # the first warms up
                wall[name].append(time.perf_counter() - begin)
                processor[name].append(spent.item())
    if rank == 0:
        for kind, times in (("wall", wall), ("processor", processor)):
            write_json(Path(folder) / f"{kind}.json", times)
    dist.destroy_process_group()


def _train(network: nn.Module, images: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        network(images).logsumexp(1).mean().backward()
        optimizer.step()
