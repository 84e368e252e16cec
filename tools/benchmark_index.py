#!/usr/bin/env python
"""Memory and time of the image index for a list as long as that of the Places365-Challenge training set.

Each figure is taken in a process of its own, which imports what training's data side needs: the peak of the building
process, the opening process, what each of several workers adds when they read all of the index in random order,
and what the order of the batches adds, from one epoch to the next. With --shards, in place of these, what making and
reading shards of as many images takes, of four bytes each.
"""

import argparse
import json
import multiprocessing
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from classification.index.index import open_index
from engine.errors import UserError, main_guard
from engine.json_files import show_json
from places365.categories import PLACES365
from places365.layout import find_split

PIXEL = bytes.fromhex("ffd8ffd9")  # the images are never read
MIB = 2**20
BATCH = 256  # images
SHARDS = 1000  # as many as 8 million images of 32 kB need, of 256 MB each
READ = 100_000  # images, out of the shards


def write_list(root, lines):
    """An official root with a challenge list of so many lines, in random class order as in the published list."""
    (root / "data_256_challenge").mkdir(parents=True)
    path = root / "places365_train_challenge.txt"
    random = np.random.default_rng(0)
    written, seen = 0, np.zeros(len(PLACES365), np.int64)
    with open(path, "w", encoding="ascii") as file, tqdm(total=lines, desc="list", leave=False, disable=None) as bar:
        while written < lines:
            part = []
            for label in random.integers(len(PLACES365), size=min(100_000, lines - written)).tolist():
                seen[label] += 1
                name = PLACES365[label]
                part.append(f"/{name[0]}/{name}/{seen[label]:08d}.jpg {label}\n")
            file.writelines(part)
            written += len(part)
            bar.update(len(part))
    first = path.open(encoding="ascii").readline().split()[0]
    image = root / "data_256_challenge" / first.lstrip("/")
    image.parent.mkdir(parents=True)
    image.write_bytes(PIXEL)
    time.sleep(2.1)  # a list that was just written is not trusted to stay as it is
    return path


def memory():
    """Bytes by kind of this process' memory now, as the kernel accounts for it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kinds = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {
        "rss": kinds["Rss"],
        "pss": kinds["Pss"],
        "uss": kinds["Private_Clean"] + kinds["Private_Dirty"],
        "private_dirty": kinds["Private_Dirty"],
        "anonymous": kinds["Anonymous"],  # all but files that are mapped, which the system can drop
    }


def peak():
    """Bytes of this process' memory at its highest; getrusage's begin with those of the process it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def step(root, cache):
    """Opens the index, in a process of its own, and tells what it took."""
    before = memory()
    begin = time.perf_counter()
    split = find_split(root, "train-challenge")
    index = open_index(split, cache)
    seconds = time.perf_counter() - begin
    rss = memory()["rss"]
    middle = len(index) // 2
    return {
        "seconds": round(seconds, 2),
        "rss_before_mib": round(before["rss"] / MIB, 1),
        "rss_after_mib": round(rss / MIB, 1),
        "rss_peak_mib": round(peak() / MIB, 1),
        "images": len(index),
        "torch_imported": "torch" in sys.modules,
        "middle": [index.name(middle), index.label(middle)],
    }


def sampling(images):
    """Takes the last batch of an epoch and the first of the next, in a process of its own, and tells what it took."""
    # Here, as it imports torch, which is not to count for the index.
    from engine.train.sampling import TrainingBatches, steps_per_epoch

    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before = memory()["rss"]
    epoch = steps_per_epoch(images, BATCH)
    batches = iter(TrainingBatches(images, BATCH, seed=0, start=epoch - 1, end=epoch + 1))
    taken = {"images": images, "batch": BATCH, "rss_before_mib": round(before / MIB, 1)}
    for name in ("first_epoch", "next_epoch"):
        begin = time.perf_counter()
        next(batches)
        taken[f"{name}_seconds"] = round(time.perf_counter() - begin, 2)
        taken[f"{name}_rss_added_mib"] = round((memory()["rss"] - before) / MIB, 1)
        taken[f"{name}_peak_added_mib"] = round((peak() - before) / MIB, 1)
    return taken


def make(root, cache, out):
    """Makes shards of all images, with the same bytes for each, and tells what it took."""
    from classification.shards.make import Options, make_shards

    index = open_index(find_split(root, "train-challenge"), cache)
    index.content = lambda position: PIXEL  # the list's files are not there
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before, begin = memory()["rss"], time.perf_counter()
    name = len(index.name(0)) + len(PIXEL) + 20
    make_shards(index, Path(out) / "train-challenge", Options(len(index) * name // SHARDS, 0))
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        "rss_before_mib": round(before / MIB, 1),
        "peak_added_mib": round((peak() - before) / MIB, 1),
    }


def read(out, cache):
    """Opens the index of the shards, reads images at random, and tells what it took."""
    taken = step(out, cache)
    index = open_index(find_split(out, "train-challenge"), cache)
    order = np.random.default_rng(0).integers(len(index), size=READ).tolist()
    before, begin = memory(), time.perf_counter()
    if any(index.content(position) != PIXEL for position in order):
        raise UserError("the shards have something else than was written")
    seconds = time.perf_counter() - begin
    after = memory()
    return {
        **taken,
        "shards": len(list(Path(out).glob("*/*.mds"))),
        "images_read": READ,
        "milliseconds_an_image": round(1000 * seconds / READ, 4),
        **{f"{kind}_added_mib": round((after[kind] - before[kind]) / MIB, 1) for kind in ("rss", "anonymous")},
    }


def separately(function, *arguments):
    """What a function of this file returns in a fresh process."""
    code = "import json, sys; sys.path.insert(0, 'tools'); import benchmark_index as b; "
    code += "print(json.dumps(getattr(b, sys.argv[1])(*json.loads(sys.argv[2]))))"
    words = [function.__name__, json.dumps(arguments, default=str)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the measuring process failed:\n{done.stderr}")
    return json.loads(done.stdout)


def of_list(root, cache, args):
    """The index of the list itself."""
    return {
        "build": separately(step, root, cache),
        "index_mib": round(sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) / MIB, 1),
        "open": separately(step, root, cache),
        "workers": workers(root, cache, args.workers),
        "sampling": separately(sampling, args.lines),
    }


def of_shards(root, cache, args):
    """Shards of the list's images."""
    out = root.parent / "shards"
    return {
        "make": separately(make, root, cache, out),
        "build": separately(read, out, cache),
        "open": separately(read, out, cache),
    }


def _worker(pickled, connection):
    before = memory()
    index = pickle.loads(pickled)
    order = np.random.default_rng(os.getpid()).permutation(len(index))[: len(index) // 8]
    total = sum(len(index.name(i)) + index.label(i) for i in order)
    labels = int(np.bincount(index.labels).sum())
    del order
    connection.send((before, total > 0 and labels == len(index)))
    connection.recv()  # until all of them hold the index
    connection.send(memory())
    connection.recv()


def workers(root, cache, count):
    """What each of several worker processes adds when it reads an eighth of the names and all of the labels."""
    pickled = pickle.dumps(open_index(find_split(root, "train-challenge"), cache))
    context = multiprocessing.get_context("spawn")
    pairs = []
    for _ in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(pickled, theirs))
        process.start()
        pairs.append((process, ours))
    before = [connection.recv() for _, connection in pairs]
    if not all(read for _, read in before):
        raise UserError("a worker read something else than was written")
    for _, connection in pairs:
        connection.send(None)
    after = [connection.recv() for _, connection in pairs]
    for process, connection in pairs:
        connection.send(None)
        process.join()
    return {
        "processes": count,
        "pickled_bytes": len(pickled),
        **{
            f"{kind}_added_mib": [round((b[kind] - a[0][kind]) / MIB, 1) for a, b in zip(before, after, strict=True)]
            for kind in ("rss", "pss", "uss", "private_dirty")
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=8_000_000, help="of the list (8,000,000)")
    parser.add_argument("--workers", type=int, default=4, help="processes that read the index together (4)")
    parser.add_argument("--shards", action="store_true", help="measure shards of the images, not the list's index")
    parser.add_argument("--folder", metavar="DIR", help="where the list and the cache lie meanwhile (a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root, cache = Path(folder) / "places365", Path(folder) / "cache"
        path = write_list(root, args.lines)
        result = {
            "benchmark": "index of shards" if args.shards else "index",
            "what": "Image index of a generated list in the challenge set's form; memory is of the whole process.",
            "lines": args.lines,
            "list_mib": round(path.stat().st_size / MIB, 1),
            **(of_shards if args.shards else of_list)(root, cache, args),
        }
    if result["build"]["middle"] != result["open"]["middle"]:
        raise UserError("the cached index is not the one that was built")

    import torch

    from engine.device import hardware  # here: it imports torch, which the workers need not
    from engine.run.folder import command, versions

    result |= {"command": command(), "hardware": hardware(torch.device("cpu")), "versions": versions()}
    result["system"] = f"{platform.system()} {platform.release().split('-')[0]}"
    show_json(result, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
