#!/usr/bin/env python
"""The input pipeline against torchvision's, on one core, batches in turn; and how close the pixels are to Pillow's."""

import argparse
import io
import os
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import PIL
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg
from tqdm import tqdm

from classification.config import get_cfg
from classification.images.batches import training_batches
from classification.images.transforms import TestTransform, TrainTransform
from classification.index.index import make_index
from classification.model import ImageClassifier
from engine.config.dialect import load_config as merge_config
from engine.device import hardware
from engine.errors import UserError, main_guard
from engine.images.reading import open_image, read_image
from engine.json_files import show_json
from engine.run.folder import command, versions

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def find_photos(folder, side):
    """The JPEG files below a folder whose longer side is `side`."""
    if not Path(folder).is_dir():
        raise UserError(f"there is no folder {folder}: name one with --photos, or set SE_DATA")
    photos = [path for path in sorted(Path(folder).rglob("*.jpg")) if max(Image.open(path).size) == side]
    if not photos:
        raise UserError(f"{folder}: there is no .jpg file whose longer side is {side} pixels")
    return photos


def our_batches(photos, args):
    index = make_index(photos, [0] * len(photos), ["photo"], args.photos)
    steps = 2 * (args.rounds + 1) * (len(photos) // args.batch)  # with normalisation and without
    cfg = config(args.size, "SOLVER.IMS_PER_BATCH", args.batch, "SOLVER.MAX_ITER", steps, "DATALOADER.NUM_WORKERS", 0)
    return training_batches(index, cfg, 0, 0, 1)


def config(size, *overrides):
    given = ["MODEL.DEVICE", "cpu", "INPUT.TRAIN_SIZE", size, "INPUT.TEST_SIZE", size, *overrides]
    return merge_config(get_cfg(), None, list(map(str, given)))


def their_batches(photos, args):
    """As in torchvision's and PyTorch's own training scripts."""
    steps = [T.RandomResizedCrop(args.size), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)]
    chosen = set(map(str, photos))
    dataset = ImageFolder(args.photos, T.Compose(steps), is_valid_file=chosen.__contains__, allow_empty=True)
    while True:
        yield from DataLoader(dataset, args.batch, shuffle=True, drop_last=True)


def throughput(photos, args):
    """Images a second, of wall time and of processor time; the ratios are medians of those of the rounds."""
    normalise = ImageClassifier(torch.nn.Linear(1, 1), config(args.size)).normalise
    ours, theirs = our_batches(photos, args), their_batches(photos, args)
    pipelines = {
        "ours": lambda: next(ours),
        "ours_normalised": lambda: normalise(next(ours).images),  # as theirs are; ours leaves it to the device
        "torchvision": lambda: next(theirs),
    }
    steps = len(photos) // args.batch
    rounds = {name: [] for name in pipelines}
    for turn in tqdm(range(args.rounds + 1), desc="measuring", leave=False, disable=None):
        seconds = {name: np.zeros(2) for name in pipelines}
        for _ in range(steps):
            for name, pipeline in pipelines.items():
                begin = time.perf_counter(), time.process_time()
                pipeline()
                seconds[name] += time.perf_counter() - begin[0], time.process_time() - begin[1]
        if turn:  # the first one warms up
            for name, spent in seconds.items():
                rounds[name].append(steps * args.batch / spent)
    result = {"photos": len(photos), "batch": args.batch, "rounds": args.rounds}
    for name, rates in rounds.items():
        wall, processor = np.median(rates, axis=0)
        result[name] = {"images_per_second": round(wall, 1), "images_per_processor_second": round(processor, 1)}
        if name != "torchvision":
            ratios = np.array(rates) / np.array(rounds["torchvision"])
            result[name] |= {
                "speedup_median": round(float(np.median(ratios[:, 0])), 3),
                "speedup_quartiles": [round(float(q), 3) for q in np.quantile(ratios[:, 0], (0.25, 0.75))],
                "speedup_median_processor": round(float(np.median(ratios[:, 1])), 3),
            }
    return result


def decoders(photos, args):
    """Processor time in ms to decode a photo to an array, the median of the photos' fastest of five."""
    functions = {
        "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
        "opencv": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR),
        "simplejpeg": simplejpeg.decode_jpeg,
        "simplejpeg at 1/2": at_half_size,
        "torchvision.io": lambda data: decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.RGB),
    }
    fastest = {name: [] for name in functions}
    for path in tqdm(photos[:: max(len(photos) // 60, 1)], desc="decoders", leave=False, disable=None):
        data, times = bytearray(path.read_bytes()), {name: [] for name in functions}
        for _ in range(5):
            for name, function in functions.items():
                begin = time.thread_time()
                function(data)
                times[name].append(time.thread_time() - begin)
        for name, measured in times.items():
            fastest[name].append(min(measured))
    return {name: round(statistics.median(values) * 1000, 2) for name, values in fastest.items()}


def at_half_size(data):
    height, width = simplejpeg.decode_jpeg_header(data)[:2]
    return simplejpeg.decode_jpeg(data, min_height=-(-height // 2), min_width=-(-width // 2))


def differences(photos, args):
    """Mean absolute difference, in levels of 0..255, from Pillow's antialiased bilinear filter on the same box."""
    return {
        "test": mean_difference(photos, test_pair(args.size)),
        f"train at {args.size}": mean_difference(photos, train_pair(args.size)),
        # At half the side the boxes are large enough to be decoded at a reduced size.
        f"train at {args.size // 2}": mean_difference(photos, train_pair(args.size // 2)),
    }


def test_pair(size):
    resize = round(size * 256 / 224)
    ours = TestTransform(config(size, "INPUT.TEST_RESIZE", resize))
    theirs = T.Compose([T.Resize(resize), T.CenterCrop(size)])
    return lambda path, rng: (ours(read_image(path)), theirs(Image.open(path).convert("RGB")))


def train_pair(size):
    transform = TrainTransform(config(size, "INPUT.FLIP", 0))

    def pair(path, rng):
        image = open_image(path)
        view = transform.choose(image, rng)
        reference = T.functional.resized_crop(Image.open(path).convert("RGB"), *view.box, [size, size])
        return transform.finish(view.read(image), view, rng), reference

    return pair


def mean_difference(photos, pair):
    rng = np.random.default_rng(0)
    values = []
    for path in tqdm(photos, desc="comparing", leave=False, disable=None):
        ours, reference = pair(path, rng)
        values.append(np.abs(ours.astype(int) - np.asarray(reference).astype(int)).mean())
    return {"mean": round(float(np.mean(values)), 3), "worst_photo": round(float(np.max(values)), 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(os.environ.get("SE_DATA", "../shared/data"))
    parser.add_argument(
        "--photos",
        default=str(data / "coco_mini"),
        help="folder of folders with .jpg files (default coco_mini in $SE_DATA)",
    )
    parser.add_argument("--json", metavar="FILE", help="keep the result")
    parser.add_argument("--side", type=int, default=640, help="use the photos whose longer side is this (default 640)")
    parser.add_argument("--size", type=int, default=224, help="side of a crop (default 224)")
    parser.add_argument("--batch", type=int, default=32, help="images (default 32)")
    parser.add_argument("--rounds", type=int, default=7, help="passes over the photos to time (default 7)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    torch.manual_seed(0)
    photos = find_photos(args.photos, args.side)
    if len(photos) < args.batch:
        raise UserError(f"{len(photos)} photos are less than a batch: --batch {len(photos)}")
    result = {
        "benchmark": "images",
        "what": "Training batches of random resized crops: this project's training_batches (uint8, normalised on the "
        "device) against torchvision's ImageFolder with RandomResizedCrop, RandomHorizontalFlip, ToTensor and "
        "Normalize; one process, one thread, no workers, batches in turn.",
        "side": args.side,
        "size": args.size,
        **throughput(photos, args),
        "decoding_ms": decoders(photos, args),
        "mean_absolute_difference": differences(photos, args),
        "command": command(),
        "hardware": hardware(torch.device("cpu")),
        "versions": {**versions(), "simplejpeg": version("simplejpeg"), "pillow": PIL.__version__},
    }
    show_json(result, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main_guard(main))
