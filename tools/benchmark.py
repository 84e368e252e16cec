#!/usr/bin/env python
"""Speed as a ratio: our code and a peer's in one process, taking turns, so that a noisy machine hits both."""

import argparse
import re
import statistics
import sys
import time

import torch
from tqdm import tqdm

from engine.device import autocast, choose_device, choose_precision, hardware
from engine.errors import UserError, main_guard
from engine.json_files import show_json
from engine.run.folder import command, versions
from se_backbones import create_backbone
from se_backbones.families.resnet.units import residual_tail


def interleave(ours, theirs, rounds, device):
    """Seconds of each call, a round a pair; the first two pairs, which warm up, are left out."""
    times = ([], [])
    for turn in tqdm(range(rounds + 2), desc="measuring", leave=False, disable=None):
        for function, seconds in zip((ours, theirs), times, strict=True):
            begin = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                seconds.append(time.perf_counter() - begin)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return {
        "ours_seconds_median": round(statistics.median(times[0]), 5),
        "theirs_seconds_median": round(statistics.median(times[1]), 5),
        "speedup_median": round(statistics.median(ratios), 3),
        "speedup_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
        "rounds": rounds,
    }


def training_pass(model, images, device, precision):
    def call():
        with autocast(device, precision):
            loss = model(images).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return call


def network(args, device, precision):
    """Forward and backward of se_resnet50 against timm's seresnet50, the same weights' shapes and the same input."""
    try:
        import timm
    except ImportError as error:
        raise UserError('timm is not installed: pip install -e ".[dev]"') from error
    images = torch.randn(args.batch, 3, args.size, args.size, device=device).to(memory_format=torch.channels_last)
    pair = [create_backbone("se_resnet50"), timm.create_model("seresnet50")]
    pair = [m.to(device, memory_format=torch.channels_last).train() for m in pair]
    calls = [training_pass(model, images, device, precision) for model in pair]
    return {"theirs": f"timm {timm.__version__} seresnet50", **interleave(*calls, args.rounds, device)}


def tail(args, device, precision):
    """Scale, add and ReLU of one unit of res2, forward and backward: one multiply-add against three operations."""
    side = args.size // 4
    shape = (args.batch, 256, side, side)
    branch, shortcut = (
        torch.randn(shape, device=device, dtype=precision).to(memory_format=torch.channels_last).requires_grad_()
        for _ in range(2)
    )
    gate = torch.rand(args.batch, 256, 1, 1, device=device, dtype=precision).requires_grad_()
    grad = torch.randn_like(branch)

    def three():
        torch.relu(branch * gate + shortcut).backward(grad)

    def one():
        residual_tail(branch, gate, shortcut).backward(grad)

    return {"theirs": "relu(branch * gate + shortcut)", **interleave(one, three, args.rounds, device)}


def compiled(args, device, precision):
    """The tail under torch.compile: one kernel, counted in the code that it generates."""
    from torch._inductor.utils import run_and_get_code

    side = args.size // 4
    branch, shortcut = (torch.randn(args.batch, 256, side, side, device=device, dtype=precision) for _ in range(2))
    gate = torch.rand(args.batch, 256, 1, 1, device=device, dtype=precision)
    with torch.no_grad():
        out, code = run_and_get_code(torch.compile(residual_tail), branch, gate, shortcut)
    kernels = sum(len(re.findall(r"async_compile\.(?:cpp_pybinding|triton)\(", text)) for text in code)
    return {
        "kernels": kernels,
        "equal": bool(torch.allclose(out, residual_tail(branch, gate, shortcut), atol=1e-6)),
    }


BENCHMARKS = {"network": network, "tail": tail, "compiled": compiled}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS, help="; ".join(f"{k}: {f.__doc__}" for k, f in BENCHMARKS.items()))
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    parser.add_argument("--rounds", type=int, default=15, help="pairs to time (default 15)")
    parser.add_argument("--batch", type=int, default=8, help="images (default 8)")
    parser.add_argument("--size", type=int, default=224, help="side of an image (default 224)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    args = parser.parse_args()
    device = choose_device(args.device)
    precision = choose_precision(args.precision, device)
    torch.manual_seed(0)
    result = {
        "benchmark": args.name,
        "what": BENCHMARKS[args.name].__doc__,
        **BENCHMARKS[args.name](args, device, precision),
        "batch": args.batch,
        "size": args.size,
        "precision": str(precision).removeprefix("torch."),
        "command": command(),
        "hardware": hardware(device),
        "versions": versions(),
    }
    show_json(result, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
