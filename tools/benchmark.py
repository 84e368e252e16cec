#!/usr/bin/env python
"""Speed as a ratio: our code and a peer's in one process, taking turns, so that a noisy machine hits both."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engine  # noqa: F401  (before PyTorch: engine/openmp.py)

# isort: split
import torch

from benchmarks.measure import Setting
from benchmarks.table import BENCHMARKS, page
from engine.device import choose_device, choose_precision, hardware
from engine.errors import UserError, main_guard
from engine.json_files import show_json, write_json
from engine.run.folder import command, versions
from engine.train.memory import keep_freed_memory
from se_backbones.files import write_atomically


def parse(arguments=None):
    names = "\n".join(f"  {name}: {benchmark.what}" for name, benchmark in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"names:\n{names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=(*BENCHMARKS, "all"), metavar="NAME", help="one of those below, or all")
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    parser.add_argument("--page", metavar="FILE", default="docs/benchmarks.md", help="of all (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of everybody, 2 or more (15)")
    parser.add_argument("--batch", type=int, default=8, help="images (8)")
    parser.add_argument("--size", type=int, default=224, help="side of an image (224)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16 or fp16")
    options = parser.parse_args(arguments)
    if options.rounds < 2 or options.batch < 1 or options.size < 32:
        parser.error("--rounds from 2, --batch from 1, --size from 32")
    return options


def run(name, options, device, **variant):
    given = {"batch": options.batch, "size": options.size, "rounds": options.rounds, "precision": options.precision}
    given |= variant
    dtype = choose_precision(given.pop("precision"), device)
    torch.manual_seed(0)
    setting = Setting(device=device, dtype=dtype, **given)
    return {
        "benchmark": name,
        "what": BENCHMARKS[name].what,
        **BENCHMARKS[name].run(setting),
        **given,
        "precision": {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype],
        "command": command(),
        "hardware": hardware(device),
        "versions": versions(),
    }


def main(arguments=None):
    options = parse(arguments)
    keep_freed_memory()  # as in training and prediction
    device = choose_device(options.device)
    if options.name != "all":
        show_json(run(options.name, options, device), options.json)
        return 0
    results = []
    for name, benchmark in BENCHMARKS.items():
        for variant in benchmark.variants:
            print(f"{name} {variant}", file=sys.stderr)
            try:
                results.append(run(name, options, device, **variant))
            except UserError as error:  # a peer that is not there
                print(f"passed over: {error}", file=sys.stderr)
    if options.json:
        write_json(options.json, results)
    print(write_atomically(options.page, page(results, str(options.json or "no file"))))
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
