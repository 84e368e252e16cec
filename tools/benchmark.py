#!/usr/bin/env python
"""Speed as a ratio: our code and a peer's in one process, taking turns, so that a noisy machine hits both."""

import argparse
import copy
import math
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
from se_backbones import SEConfig, SEGate, create_backbone
from se_backbones.families.resnet.units import residual_tail
from se_backbones.layers import gated

SHORTEST = 0.02  # seconds that one measurement lasts at least


def take_turns(calls, rounds, device):
    """Seconds of each call, by name, a round of all of them after the other; the first two rounds, which warm up,
    are left out. Short calls are repeated within a measurement."""

    def seconds_of(call, repeats):
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) / repeats

    times = {name: [] for name in calls}
    repeats = 1
    for turn in tqdm(range(rounds + 2), desc="measuring", leave=False, disable=None):
        seconds = {name: seconds_of(call, repeats) for name, call in calls.items()}
        if turn == 1:
            repeats = math.ceil(SHORTEST / min(seconds.values()))
        if turn >= 2:
            for name, value in seconds.items():
                times[name].append(value)
    return times


def ratio(times, over, under):
    """Median and quartiles of one call's time over another's, each round on its own."""
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)[::2]
    return round(statistics.median(ratios), 3), [round(q, 3) for q in quartiles]


def interleave(ours, theirs, rounds, device):
    """Ours and a peer's."""
    times = take_turns({"ours": ours, "theirs": theirs}, rounds, device)
    speedup, quartiles = ratio(times, "theirs", "ours")
    return {
        "ours_seconds_median": round(statistics.median(times["ours"]), 6),
        "theirs_seconds_median": round(statistics.median(times["theirs"]), 6),
        "speedup_median": speedup,
        "speedup_quartiles": quartiles,
        "rounds": rounds,
    }


def training_pass(model, images, device, precision):
    model.train()

    def call():
        with autocast(device, precision):
            loss = model(images).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return call


def inference_pass(model, images, device, precision):
    """Weights and images in ``precision``: under autocast each call would convert the weights again."""
    model.eval().to(precision)
    images = images.to(precision)

    @torch.no_grad()
    def call():
        model(images)

    return call


def import_timm():
    try:
        import timm
    except ImportError as error:
        raise UserError('timm is not installed: pip install -e ".[dev]"') from error
    return timm


def some_images(args, device):
    return torch.randn(args.batch, 3, args.size, args.size, device=device).to(memory_format=torch.channels_last)


def network(args, device, precision):
    """Forward and backward of se_resnet50 against timm's seresnet50, the same weights' shapes and the same input."""
    timm = import_timm()
    images = some_images(args, device)
    pair = [create_backbone("se_resnet50"), timm.create_model("seresnet50")]
    pair = [m.to(device, memory_format=torch.channels_last) for m in pair]
    calls = [training_pass(model, images, device, precision) for model in pair]
    return {"theirs": f"timm {timm.__version__} seresnet50", **interleave(*calls, args.rounds, device)}


def cost_of_se(args, device, precision, make_pass):
    """Time of SE-ResNet-50 over that of ResNet-50, ours and timm's, all four taking turns."""
    timm = import_timm()
    images = some_images(args, device)
    models = {
        "se_resnet50": create_backbone("se_resnet50"),
        "resnet50": create_backbone("resnet50"),
        "timm_seresnet50": timm.create_model("seresnet50"),
        "timm_resnet50": timm.create_model("resnet50"),
    }
    calls = {
        name: make_pass(model.to(device, memory_format=torch.channels_last), images, device, precision)
        for name, model in models.items()
    }
    times = take_turns(calls, args.rounds, device)
    ours, theirs = ratio(times, "se_resnet50", "resnet50"), ratio(times, "timm_seresnet50", "timm_resnet50")
    return {
        "theirs": f"timm {timm.__version__}",
        "seconds_median": {name: round(statistics.median(values), 6) for name, values in times.items()},
        "ours_se_over_plain_median": ours[0],
        "ours_se_over_plain_quartiles": ours[1],
        "theirs_se_over_plain_median": theirs[0],
        "theirs_se_over_plain_quartiles": theirs[1],
        "rounds": args.rounds,
    }


def training_cost(args, device, precision):
    """SE's cost in training: forward and backward of se_resnet50 over resnet50, ours and timm's."""
    return cost_of_se(args, device, precision, training_pass)


def inference_cost(args, device, precision):
    """SE's cost in inference: forward of se_resnet50 over resnet50, ours and timm's, nothing fused."""
    return cost_of_se(args, device, precision, inference_pass)


def maps_of(args, channels, stride, device, precision):
    """Branch, shortcut and the result's gradient at one stage of a ResNet-50."""
    side = -(-args.size // stride)
    maps = (torch.randn(args.batch, channels, side, side, device=device, dtype=precision) for _ in range(3))
    branch, shortcut, grad = (x.to(memory_format=torch.channels_last) for x in maps)
    return branch.requires_grad_(), shortcut.requires_grad_(), grad


def tail(args, device, precision):
    """Scale, add and ReLU of one unit of res2, forward and backward: residual_tail against three operations."""
    branch, shortcut, grad = maps_of(args, 256, 4, device, precision)
    gate = torch.rand(args.batch, 256, 1, 1, device=device, dtype=precision).requires_grad_()

    def three():
        torch.autograd.grad(torch.relu(branch * gate + shortcut), (branch, gate, shortcut), grad)

    def one():
        torch.autograd.grad(residual_tail(branch, lambda _: gate, shortcut), (branch, gate, shortcut), grad)

    return {"theirs": "relu(branch * gate + shortcut)", **interleave(one, three, args.rounds, device)}


def tail_calls(args, device, precision):
    """The tails of res2 to res5 with their squeeze, forward and backward."""
    units = []
    for channels, stride in ((256, 4), (512, 8), (1024, 16), (2048, 32)):
        se = SEGate(channels, SEConfig(), 16).to(device, precision)
        units.append((se, *maps_of(args, channels, stride, device, precision)))

    def call():
        for se, branch, shortcut, grad in units:
            torch.autograd.grad(residual_tail(branch, se, shortcut), (branch, shortcut, *se.parameters()), grad)

    return call


def own_backward(args, device, precision):
    """A tail with its squeeze in each of res2 to res5, forward and backward: the backward pass of its own against
    autograd's."""
    call = tail_calls(args, device, precision)

    def on(devices):
        def switched():
            kept, gated.FROM_ELEMENTS = gated.FROM_ELEMENTS, devices
            call()
            gated.FROM_ELEMENTS = kept

        return switched

    return {
        "theirs": "the same forward through autograd",
        "triton": gated._kernels(torch.empty(1, 1, 1, 1, device=device, dtype=precision)) is not None,
        **interleave(on({device.type: 1}), on({}), args.rounds, device),
    }


def kernels(args, device, precision):
    """Result and gradients of the tail with its squeeze against the plain formula in float64: largest errors, its own
    backward pass beside autograd's, in each type and memory format; and whether a second run is equal bit for bit."""

    def run(devices, se, maps, grad):
        kept, gated.FROM_ELEMENTS = gated.FROM_ELEMENTS, devices
        maps = [x.detach().requires_grad_() for x in maps]
        out = residual_tail(maps[0], se, maps[1])
        grads = torch.autograd.grad(out, [*maps, *se.parameters()], grad)
        gated.FROM_ELEMENTS = kept
        return [out.detach(), *grads]

    types = (torch.float32, torch.bfloat16) + ((torch.float16,) if device.type == "cuda" else ())
    names = ("out", "d_branch", "d_shortcut", "d_fc1", "d_fc1_bias", "d_fc2", "d_fc2_bias")
    rows = []
    for dtype in types:
        for layout in (torch.channels_last, torch.contiguous_format):
            for channels, height, width in ((256, 56, 56), (2048, 7, 7), (40, 19, 23)):
                shape = (min(args.batch, 8), channels, height, width)
                maps = [torch.randn(shape, device=device).to(dtype).to(memory_format=layout) for _ in range(3)]
                grad = maps.pop()
                se = SEGate(channels, SEConfig(), 16).to(device, dtype)
                # The same gate in float64, from the same rounded weights; the sign of a sum near 0 is a matter of
                # rounding, so the gradient is 0 there.
                exact = copy.deepcopy(se).double()
                doubles = [x.double() for x in maps]
                value = torch.addcmul(doubles[1], doubles[0], exact(doubles[0])).detach()
                grad = torch.where(value.abs() < 0.05, 0, grad)
                true = run({}, exact, doubles, grad.double())
                ours, again = (run({device.type: 1}, se, maps, grad) for _ in range(2))
                autograds = run({}, se, maps, grad)

                def errors(found, true=true):
                    relative = [
                        ((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(found, true, strict=True)
                    ]
                    return {name: float(f"{error:.2g}") for name, error in zip(names, relative, strict=True)}

                rows.append(
                    {
                        "type": str(dtype).removeprefix("torch."),
                        "layout": str(layout).removeprefix("torch."),
                        "shape": "x".join(map(str, shape)),
                        "triton": gated._kernels(maps[0]) is not None,
                        "equal_twice": all(torch.equal(a, b) for a, b in zip(ours, again, strict=True)),
                        "errors": errors(ours),
                        "errors_of_autograd": errors(autograds),
                    }
                )
    return {"cases": rows}


def compiled(args, device, precision):
    """The tail under torch.compile: one kernel, counted in the code that it generates."""
    from torch._inductor.utils import run_and_get_code

    side = args.size // 4
    branch, shortcut = (torch.randn(args.batch, 256, side, side, device=device, dtype=precision) for _ in range(2))
    gate = torch.rand(args.batch, 256, 1, 1, device=device, dtype=precision)

    def tail_of(branch, gate, shortcut):
        return residual_tail(branch, lambda _: gate, shortcut)

    with torch.no_grad():
        out, code = run_and_get_code(torch.compile(tail_of), branch, gate, shortcut)
    kernels = sum(len(re.findall(r"async_compile\.(?:cpp_pybinding|triton)\(", text)) for text in code)
    return {
        "kernels": kernels,
        "equal": bool(torch.allclose(out, tail_of(branch, gate, shortcut), atol=1e-6)),
    }


BENCHMARKS = {f.__name__: f for f in (network, training_cost, inference_cost, tail, own_backward, kernels, compiled)}


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
