"""The published forms of CIFAR-10, CIFAR-100 and STL-10, and how each is read.

CIFAR: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, Learning Multiple Layers of Features from Tiny Images,
2009), "Binary version" and "Python version". STL-10: https://cs.stanford.edu/~acoates/stl10 (Coates, Lee and Ng, An
Analysis of Single-Layer Networks in Unsupervised Feature Learning, AISTATS 2011).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from engine.errors import UserError
from engine.names import class_name

CIFAR_SIDE, STL_SIDE = 32, 96  # pixels


class Images(NamedTuple):
    """Images of one file.

    Attributes:
        labels: (n,) class indices, as the set counts them from 0.
        pixels: (n, H, W, 3) RGB uint8.
        names: as the set has them; empty: it has none.
    """

    labels: np.ndarray
    pixels: np.ndarray
    names: list[bytes]


@dataclass(frozen=True)
class Form:
    """One form in which a set is published.

    Attributes:
        title: the set.
        folder: that its archive unpacks to.
        archive: the archive's name.
        splits: {"train" or "test": {file: images in it}}, in the order of the images.
        classes_file: it names the classes in their order.
        classes: their number.
        read_classes: (that file's content, what messages call it) → the names.
        read_images: (a file's content, the content of its labels, what messages call it, images in it) → images.
            The labels' content is empty where the file has them itself.
        labels_file: a file's name → that of its labels; empty where it has them itself.
    """

    title: str
    folder: str
    archive: str
    splits: Mapping[str, Mapping[str, int]]
    classes_file: str
    classes: int
    read_classes: Callable[[bytes, str], list[str]]
    read_images: Callable[[bytes, bytes, str, int], Images]
    labels_file: Callable[[str], str] = lambda name: ""

    def names_of_classes(self, content: bytes, where: str) -> list[str]:
        """The names of the classes in their order. Raises UserError where they are not as many as the set has."""
        names = list(map(class_name, self.read_classes(content, where)))
        if len(names) != self.classes or len(set(names)) != self.classes:
            raise UserError(
                f"{where} names {len(set(names))} classes, and {self.title} has {self.classes}: get it again"
            )
        return names

    def images_of(self, content: bytes, labels: bytes, where: str, count: int) -> Images:
        """The images of a file. Raises UserError where they are others than the set's by size, number or labels."""
        images = self.read_images(content, labels, where, count)
        wrong = np.flatnonzero((images.labels < 0) | (images.labels >= self.classes))
        if len(wrong):
            place = int(wrong[0])
            raise UserError(
                f"{where}, image {place}: its class {int(images.labels[place])} is not in 0..{self.classes - 1}, "
                "counted from 0. The file is damaged: get it again"
            )
        return images


def _lines(content: bytes, where: str) -> list[str]:
    return [line.strip() for line in content.decode("utf-8", "surrogateescape").splitlines() if line.strip()]


def _check_size(content: bytes, where: str, count: int, record: int) -> None:
    if len(content) != count * record:
        raise UserError(
            f"{where} has {len(content):,} bytes, and the official file {count * record:,}: {count:,} records of "
            f"{record:,} bytes. Get it again"
        )


def _planes(pixels: np.ndarray, side: int) -> np.ndarray:
    """(n, 3 · side · side): the red, the green and the blue plane, row by row → (n, side, side, 3)."""
    return pixels.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def _cifar_binary(label_bytes: int) -> Callable[[bytes, bytes, str, int], Images]:
    """Records of labels, the last of which counts (CIFAR-100: the coarse one, the fine one), and pixels."""

    def read(content: bytes, labels: bytes, where: str, count: int) -> Images:
        record = label_bytes + 3 * CIFAR_SIDE**2
        _check_size(content, where, count, record)
        records = np.frombuffer(content, np.uint8).reshape(count, record)
        pixels = _planes(records[:, label_bytes:], CIFAR_SIDE)
        return Images(records[:, label_bytes - 1].astype(np.int64), pixels, [])

    return read


def _unpickled(content: bytes, where: str) -> dict:
    """A pickle's dictionary, without running what is in it."""
    from se_backbones.errors import WeightsError  # here: it imports torch, which no other form needs
    from se_backbones.weights.formats.numpy_pickle import parse_numpy_pickle

    try:
        values = parse_numpy_pickle(io.BytesIO(content), where)
    except WeightsError as error:
        raise UserError(f"{error} It is none of the official files: get it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{where} holds no dictionary, as the official file does: get it again")
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in values.items()}


def _texts(values: dict, key: str, where: str) -> list[bytes]:
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(text, str | bytes) for text in found):
        raise UserError(f"{where} has no list of texts {key!r}, as the official file does: get it again")
    return [text if isinstance(text, bytes) else text.encode("latin1") for text in found]


def _classes_of_pickle(key: str) -> Callable[[bytes, str], list[str]]:
    return lambda content, where: [name.decode("latin1") for name in _texts(_unpickled(content, where), key, where)]


def _cifar_python(key: str) -> Callable[[bytes, bytes, str, int], Images]:
    def read(content: bytes, labels: bytes, where: str, count: int) -> Images:
        values = _unpickled(content, where)
        names, of_classes, data = _texts(values, "filenames", where), values.get(key), values.get("data")
        shape = count, 3 * CIFAR_SIDE**2
        if tuple(getattr(data, "shape", ())) != shape or str(data.dtype) != "torch.uint8":
            raise UserError(
                f"{where} has no bytes 'data' of {shape[0]:,} × {shape[1]:,}, as the official file: get it again"
            )
        whole = isinstance(of_classes, list) and all(type(label) is int for label in of_classes)
        if not whole or {len(of_classes), len(names)} != {count}:
            raise UserError(
                f"{where} has not {count:,} numbers {key!r} and 'filenames', as the official file: get it again"
            )
        return Images(np.array(of_classes, np.int64), _planes(data.numpy(), CIFAR_SIDE), names)

    return read


def _stl(content: bytes, labels: bytes, where: str, count: int) -> Images:
    """Pixels plane by plane and, within a plane, column by column; labels of 1 to 10 in a file of their own."""
    _check_size(content, where, count, 3 * STL_SIDE**2)
    of_labels = PurePosixPath(where).with_name(_stl_labels(PurePosixPath(where).name))
    _check_size(labels, str(of_labels), count, 1)
    pixels = np.frombuffer(content, np.uint8).reshape(count, 3, STL_SIDE, STL_SIDE).transpose(0, 3, 2, 1)
    return Images(np.frombuffer(labels, np.uint8).astype(np.int64) - 1, pixels, [])


def _stl_labels(name: str) -> str:
    return name.replace("_X", "_y")


def folder_of(name: str) -> str:
    """What the images of a file are called by: "data_batch_1" of data_batch_1.bin, "train" of train_X.bin."""
    return PurePosixPath(name).stem.removesuffix("_X")


_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]

FORMS = (
    Form(
        "CIFAR-10", "cifar-10-batches-bin", "cifar-10-binary.tar.gz",
        {"train": {f"{name}.bin": 10_000 for name in _BATCHES}, "test": {"test_batch.bin": 10_000}},
        "batches.meta.txt", 10, _lines, _cifar_binary(1),
    ),
    Form(
        "CIFAR-10", "cifar-10-batches-py", "cifar-10-python.tar.gz",
        {"train": dict.fromkeys(_BATCHES, 10_000), "test": {"test_batch": 10_000}},
        "batches.meta", 10, _classes_of_pickle("label_names"), _cifar_python("labels"),
    ),
    Form(
        "CIFAR-100", "cifar-100-binary", "cifar-100-binary.tar.gz",
        {"train": {"train.bin": 50_000}, "test": {"test.bin": 10_000}},
        "fine_label_names.txt", 100, _lines, _cifar_binary(2),
    ),
    Form(
        "CIFAR-100", "cifar-100-python", "cifar-100-python.tar.gz",
        {"train": {"train": 50_000}, "test": {"test": 10_000}},
        "meta", 100, _classes_of_pickle("fine_label_names"), _cifar_python("fine_labels"),
    ),
    Form(
        "STL-10", "stl10_binary", "stl10_binary.tar.gz",
        {"train": {"train_X.bin": 5_000}, "test": {"test_X.bin": 8_000}},
        "class_names.txt", 10, _lines, _stl, _stl_labels,
    ),
)  # fmt: skip
