"""The input pipeline against torchvision's, on one core, batches in turn; and how close the pixels are to Pillow's."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_jpeg
from tqdm import tqdm

from benchmarks.measure import Setting, data_folder, image_rates, one_thread
from classification.config import get_cfg
from classification.images.batches import training_batches
from classification.images.transforms import TestTransform, TrainTransform
from classification.index.index import make_index
from classification.model import ImageClassifier
from engine import compat  # noqa: F401  (before detectron2)
from engine.config.dialect import load_config as merge_config
from engine.errors import UserError
from engine.images.reading import open_image, read_image

from detectron2.config import CfgNode

SIDE = 640  # pixels, the longer one of the photos
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def images(setting: Setting) -> dict:
    """Training batches of random resized crops: this project's training_batches (uint8, normalised on the device)
    against torchvision's ImageFolder with RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize; one process,
    one thread, no workers, batches in turn, on the photos of 640 pixels in SE_DATA/coco_mini."""
    folder = data_folder() / "coco_mini"
    photos = find_photos(folder, setting.batch)
    with one_thread():
        return {
            "theirs": f"torchvision {version('torchvision')}, Pillow {version('pillow')}",
            "photos": len(photos),
            **throughput(photos, folder, setting),
            "decoding_ms": decoders(photos),
            "mean_absolute_difference": differences(photos, setting.size),
        }


def find_photos(folder: Path, least: int) -> list[Path]:
    """The JPEG files below a folder whose longer side is SIDE, so many at least."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: set SE_DATA to the folder that coco_mini lies in")
    photos = [path for path in sorted(folder.rglob("*.jpg")) if max(Image.open(path).size) == SIDE]
    if len(photos) < least:
        raise UserError(
            f"{folder}: {len(photos)} .jpg files have a longer side of {SIDE} pixels, less than a batch of {least}"
        )
    return photos


def our_batches(photos: list[Path], folder: Path, setting: Setting) -> Iterator:
    index = make_index(photos, [0] * len(photos), ["photo"], str(folder))
    steps = 2 * (setting.rounds + 1) * (len(photos) // setting.batch)  # with normalisation and without
    batches = "SOLVER.IMS_PER_BATCH", setting.batch, "SOLVER.MAX_ITER", steps, "DATALOADER.NUM_WORKERS", 0
    return training_batches(index, config(setting.size, *batches), 0, 0, 1)


def config(size: int, *overrides) -> CfgNode:
    given = ["MODEL.DEVICE", "cpu", "INPUT.TRAIN_SIZE", size, "INPUT.TEST_SIZE", size, *overrides]
    return merge_config(get_cfg(), None, list(map(str, given)))


def their_batches(photos: list[Path], folder: Path, setting: Setting) -> Iterator:
    """As in torchvision's and PyTorch's own training scripts."""
    steps = [T.RandomResizedCrop(setting.size), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)]
    chosen = set(map(str, photos))
    dataset = ImageFolder(folder, T.Compose(steps), is_valid_file=chosen.__contains__, allow_empty=True)
    while True:
        yield from DataLoader(dataset, setting.batch, shuffle=True, drop_last=True)


def throughput(photos: list[Path], folder: Path, setting: Setting) -> dict:
    """Images a second, of wall time and of processor time; the ratios are medians of those of the rounds."""
    normalise = ImageClassifier(torch.nn.Linear(1, 1), config(setting.size)).normalise
    ours, theirs = our_batches(photos, folder, setting), their_batches(photos, folder, setting)
    pipelines = {
        "ours": lambda: next(ours),
        "ours_normalised": lambda: normalise(next(ours).images),  # as theirs are; ours leaves it to the device
        "torchvision": lambda: next(theirs),
    }
    return image_rates(pipelines, len(photos) // setting.batch, setting, "torchvision")


def decoders(photos: list[Path]) -> dict[str, float]:
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


def at_half_size(data: bytearray) -> np.ndarray:
    height, width = simplejpeg.decode_jpeg_header(data)[:2]
    return simplejpeg.decode_jpeg(data, min_height=-(-height // 2), min_width=-(-width // 2))


def differences(photos: list[Path], size: int) -> dict[str, dict]:
    """Mean absolute difference, in levels of 0..255, from Pillow's antialiased bilinear filter on the same box."""
    return {
        "test": mean_difference(photos, test_pair(size)),
        f"train at {size}": mean_difference(photos, train_pair(size)),
        # At half the side the boxes are large enough to be decoded at a reduced size.
        f"train at {size // 2}": mean_difference(photos, train_pair(size // 2)),
    }


def test_pair(size: int) -> Callable:
    resize = round(size * 256 / 224)
    ours = TestTransform(config(size, "INPUT.TEST_RESIZE", resize))
    theirs = T.Compose([T.Resize(resize), T.CenterCrop(size)])
    return lambda path, rng: (ours(read_image(path)), theirs(Image.open(path).convert("RGB")))


def train_pair(size: int) -> Callable:
    transform = TrainTransform(config(size, "INPUT.FLIP", 0))

    def pair(path, rng):
        image = open_image(path)
        view = transform.choose(image, rng)
        reference = T.functional.resized_crop(Image.open(path).convert("RGB"), *view.box, [size, size])
        return transform.finish(view.read(image), view, rng), reference

    return pair


def mean_difference(photos: list[Path], pair: Callable) -> dict[str, float]:
    rng = np.random.default_rng(0)
    values = []
    for path in tqdm(photos, desc="comparing", leave=False, disable=None):
        ours, reference = pair(path, rng)
        values.append(np.abs(ours.astype(int) - np.asarray(reference).astype(int)).mean())
    return {"mean": round(float(np.mean(values)), 3), "worst_photo": round(float(np.max(values)), 3)}
