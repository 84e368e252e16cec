#!/usr/bin/env python
"""The same images in class folders, in a zip and in a tar: training batches of each in turn, in one process."""

import argparse
import os
import sys
import tarfile
import tempfile
import time
import zipfile
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from classification.config import load_config
from classification.images.batches import training_batches
from classification.index.class_folders import find_split
from classification.index.index import open_index
from engine.device import hardware
from engine.errors import UserError, main_guard
from engine.json_files import show_json
from engine.run.folder import command, versions


def places(archive, folder):
    """The images of an uncompressed zip as {"folders", "zip", "tar"}: path, in a folder."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder / "folders")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: {error}. Name a zip of class folders with --data, or set SE_DATA") from None
    with tarfile.open(folder / "images.tar", "w") as tarred:
        tarred.add(folder / "folders", "")
    return {"folders": folder / "folders", "zip": Path(archive), "tar": folder / "images.tar"}


def built(path, cache):
    """The index of the training images, and the seconds that finding and indexing them took."""
    begin = time.perf_counter()
    index = open_index(find_split(path, "train"), cache)
    return index, time.perf_counter() - begin


def throughput(indices, args):
    """Images a second of each place, of wall and of processor time: medians over the rounds, and of their ratios to the
    folders of the same round."""
    steps = args.images // args.batch
    cfg = load_config(None, [str(word) for word in [
        "MODEL.DEVICE", "cpu", "INPUT.TRAIN_SIZE", args.size, "INPUT.TEST_SIZE", args.size, "DATALOADER.NUM_WORKERS", 0,
        "SOLVER.IMS_PER_BATCH", args.batch, "SOLVER.MAX_ITER", steps * (args.rounds + 1),
    ]])  # fmt: skip
    batches = {name: training_batches(index, cfg, 0, 0, 1) for name, index in indices.items()}
    rates = {name: [] for name in indices}
    orders = cycle([list(indices), list(indices)[::-1]])  # who comes first finds the processor's caches swept
    for turn in tqdm(range(args.rounds + 1), desc="measuring", leave=False, disable=None):
        spent = {name: np.zeros(2) for name in indices}
        for _, order in zip(range(steps), orders, strict=False):
            for name in order:
                begin = time.perf_counter(), time.process_time()
                next(batches[name])
                spent[name] += time.perf_counter() - begin[0], time.process_time() - begin[1]
        if turn:  # the first one warms up
            for name, seconds in spent.items():
                rates[name].append(steps * args.batch / seconds)
    found = {}
    for name, values in rates.items():
        wall, processor = np.median(values, axis=0)
        ratios = (np.array(values) / np.array(rates["folders"]))[:, 0]
        quartiles = [round(float(q), 3) for q in np.quantile(ratios, (0.25, 0.5, 0.75))]
        found[name] = {
            "images_per_second": round(wall, 1),
            "images_per_processor_second": round(processor, 1),
            "over_folders_quartiles": quartiles,
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("SE_DATA", "../shared/data"))
    parser.add_argument(
        "--data", default=str(data / "cifar10.zip"), metavar="ZIP", help="class folders (cifar10.zip in $SE_DATA)"
    )
    parser.add_argument("--size", type=int, default=32, help="side of a crop (32)")
    parser.add_argument("--batch", type=int, default=128, help="images (128)")
    parser.add_argument("--images", type=int, default=10_000, help="of each place in a round (10,000)")
    parser.add_argument("--rounds", type=int, default=7, help="to take medians of (7)")
    parser.add_argument("--folder", metavar="DIR", help="where folders, tar and indices lie (a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        made = places(args.data, Path(folder))
        indices, seconds = {}, {}
        for name, path in made.items():
            indices[name], seconds[name] = built(path, Path(folder) / "cache")
        result = {
            "benchmark": "archives",
            "what": "Training batches of the same images from class folders, one zip and one tar, which are read in "
            "place; one process, one thread, no workers, batches in turn, files in the system's cache.",
            "data": Path(args.data).name,
            "images": len(indices["folders"]),
            "index_seconds": {name: round(value, 2) for name, value in seconds.items()},
            "size": args.size,
            "batch": args.batch,
            "rounds": args.rounds,
            **throughput(indices, args),
            "command": command(),
            "hardware": hardware(torch.device("cpu")),
            "versions": versions(),
        }
    show_json(result, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
