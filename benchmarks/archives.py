"""The same images in class folders, in a zip, in a tar and in shards: training batches of each in turn, in one
process."""

from __future__ import annotations

import tarfile
import tempfile
import time
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.measure import Setting, data_folder, image_rates, one_thread
from classification.config import load_config
from classification.images.batches import training_batches
from classification.index.index import ImageIndex, open_index
from classification.sets.find import find_split
from classification.shards.make import Options, make_shards
from engine.errors import UserError

IMAGES = 10_000  # of each place in a round


def archives(setting: Setting) -> dict:
    """Training batches of the same images from class folders, one zip and one tar, which are read in place; one
    process, one thread, no workers, batches in turn, files in the system's cache: SE_DATA/cifar10.zip."""
    with tempfile.TemporaryDirectory() as folder, one_thread():
        indices, seconds = {}, {}
        for name, path in places(data_folder() / "cifar10.zip", Path(folder)).items():
            indices[name], seconds[name] = built(path, Path(folder) / "cache")
        return {
            "images": len(indices["folders"]),
            "index_seconds": {name: round(value, 2) for name, value in seconds.items()},
            **throughput(indices, setting),
        }


def shards(setting: Setting) -> dict:
    """Training batches of the same images from class folders and out of the shards of tools/make_shards.py, of 4 MB
    each; one process, one thread, no workers, batches in turn, files in the system's cache: SE_DATA/cifar10.zip."""
    with tempfile.TemporaryDirectory() as name, one_thread():
        folder = Path(name)
        index, _ = built(unpacked(data_folder() / "cifar10.zip", folder), folder / "cache")
        begin = time.perf_counter()
        make_shards(index, folder / "shards" / "train", Options(4 * 10**6, 0))
        seconds = time.perf_counter() - begin
        sharded, _ = built(folder / "shards", folder / "cache")
        return {
            "images": len(index),
            "shards": len(list((folder / "shards" / "train").glob("*.mds"))),
            "making_seconds": round(seconds, 2),
            **throughput({"folders": index, "in_shards": sharded}, setting),
        }


def unpacked(archive: Path, folder: Path) -> Path:
    """The images of a zip in class folders."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder / "folders")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: {error}. Set SE_DATA to the folder that it lies in") from None
    return folder / "folders"


def places(archive: Path, folder: Path) -> dict[str, Path]:
    """The images of an uncompressed zip as {"folders", "zip", "tar"}: path, in a folder."""
    unpacked(archive, folder)
    with tarfile.open(folder / "images.tar", "w") as tarred:
        tarred.add(folder / "folders", "")
    return {"folders": folder / "folders", "zip": archive, "tar": folder / "images.tar"}


def built(path: Path, cache: Path) -> tuple[ImageIndex, float]:
    """The index of the training images, and the seconds that finding and indexing them took."""
    begin = time.perf_counter()
    index = open_index(find_split(str(path), "train"), cache)
    return index, time.perf_counter() - begin


def throughput(indices: Mapping[str, ImageIndex], setting: Setting) -> dict:
    """Images a second of each place, and how many times those of the folders."""
    steps = max(min(IMAGES, len(indices["folders"])) // setting.batch, 1)
    cfg = load_config(None, [str(word) for word in [
        "MODEL.DEVICE", "cpu", "INPUT.TRAIN_SIZE", setting.size, "INPUT.TEST_SIZE", setting.size,
        "DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", setting.batch,
        "SOLVER.MAX_ITER", steps * (setting.rounds + 1),
    ]])  # fmt: skip
    batches = {name: training_batches(index, cfg, 0, 0, 1) for name, index in indices.items()}
    return image_rates({name: partial(next, made) for name, made in batches.items()}, steps, setting, "folders")
