"""CIFAR and STL-10 in all of their published forms, of a few images: written byte by byte as they are."""

import struct
import tarfile
from dataclasses import replace

import numpy as np

from classification.sets import forms

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100 = [f"class_{number:02}" for number in range(100)]
STL10 = "airplane bird car cat deer dog horse monkey ship truck".split()
SHRINK = 2500  # so many times fewer images in a file


def small_forms(monkeypatch):
    """The forms of files with 2 to 20 images."""
    small = [
        replace(form, splits={s: {n: c // SHRINK for n, c in files.items()} for s, files in form.splits.items()})
        for form in forms.FORMS
    ]
    monkeypatch.setattr(forms, "FORMS", tuple(small))


class Python2Pickle:
    """What Python 2's cPickle wrote in protocol 2: byte strings as texts, and arrays of NumPy 1."""

    def __init__(self):
        self.memo = 0

    def dumps(self, value):
        return b"\x80\x02" + self.of(value) + b"."

    def put(self):
        self.memo += 1
        return b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)

    def of(self, value):
        if isinstance(value, bytes):
            length = b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
            return length + value + self.put()
        if isinstance(value, str):
            return self.of(value.encode("latin1"))
        if isinstance(value, int):
            return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"]" + self.put() + b"(" + b"".join(map(self.of, value)) + b"e"
        if isinstance(value, dict):
            return b"}" + self.put() + b"(" + b"".join(self.of(k) + self.of(v) for k, v in value.items()) + b"u"
        rows, columns = value.shape
        kind = b"cnumpy\ndtype\n" + self.put() + b"(" + self.of("u1") + b"K\x00K\x01t" + self.put() + b"R" + self.put()
        kind += b"(K\x03" + self.of("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t" + self.put() + b"b"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n" + self.put() + b"(cnumpy\nndarray\n" + self.put()
        empty += b"(K\x00t" + self.put() + self.of("b") + b"t" + self.put() + b"R" + self.put()
        shape = b"(" + self.of(rows) + self.of(columns) + b"t" + self.put()
        return empty + b"(K\x01" + shape + kind + b"\x89" + self.of(value.tobytes()) + b"t" + self.put() + b"b"


def write_set(title, form, folder, pixels, labels):
    """Writes one form of a set.

    Args:
        form: binary or python.
        folder: gets the folder of the form.
        pixels, labels: {"train" or "test": (n, H, W, 3) uint8}, {…: (n,)}.

    Returns:
        that folder.
    """
    made = {"CIFAR-10": _cifar10, "CIFAR-100": _cifar100, "STL-10": _stl10}[title](form, pixels, labels)
    name = next(f.folder for f in forms.FORMS if f.title == title and (f.folder.endswith("py") or "python" in f.folder)
                == (form == "python"))  # fmt: skip
    (folder / name).mkdir(parents=True)
    for file, content in made.items():
        (folder / name / file).write_bytes(content)
    return folder / name


def pack(folder, path, last=()):
    """The folder as it is published, in a .tar.gz; the files named last come last."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(folder, folder.name, recursive=False)
        for file in sorted(folder.iterdir(), key=lambda file: (file.name in last, file.name), reverse=False):
            archive.add(file, f"{folder.name}/{file.name}")
    return path


def _planes(pixels):
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def _cifar10(form, pixels, labels):
    parts = {f"data_batch_{number + 1}": ("train", slice(4 * number, 4 * number + 4)) for number in range(5)}
    parts["test_batch"] = ("test", slice(None))
    if form == "binary":
        made = {"batches.meta.txt": "\n".join([*CIFAR10, "", ""]).encode(), "readme.html": b"<html>"}
        for name, (split, part) in parts.items():
            records = np.concatenate([labels[split][part, None].astype(np.uint8), _planes(pixels[split][part])], axis=1)
            made[f"{name}.bin"] = records.tobytes()
        return made
    meta = {"num_cases_per_batch": 10000, "label_names": CIFAR10, "num_vis": 3072}
    made = {"batches.meta": Python2Pickle().dumps(meta)}
    for name, (split, part) in parts.items():
        batch = {
            "batch_label": f"{name} of 5", "labels": labels[split][part].tolist(), "data": _planes(pixels[split][part]),
            "filenames": [f"photo_s_{number:06}.png" for number in range(len(pixels[split][part]))],
        }  # fmt: skip
        made[name] = Python2Pickle().dumps(batch)
    return made


def _cifar100(form, pixels, labels):
    if form == "binary":
        made = {"fine_label_names.txt": "\n".join([*CIFAR100, ""]).encode(), "coarse_label_names.txt": b"fish\n"}
        for split in ("train", "test"):
            coarse = np.full((len(labels[split]), 1), 7, np.uint8)
            fine = labels[split][:, None].astype(np.uint8)
            made[f"{split}.bin"] = np.concatenate([coarse, fine, _planes(pixels[split])], axis=1).tobytes()
        return made
    made = {"meta": Python2Pickle().dumps({"fine_label_names": CIFAR100, "coarse_label_names": ["fish"]})}
    for split in ("train", "test"):
        batch = {
            "filenames": [f"photo_s_{number:06}.png" for number in range(len(labels[split]))],
            "batch_label": "training batch 1 of 1", "fine_labels": labels[split].tolist(),
            "coarse_labels": [7] * len(labels[split]), "data": _planes(pixels[split]),
        }  # fmt: skip
        made[split] = Python2Pickle().dumps(batch)
    return made


def _stl10(form, pixels, labels):
    made = {"class_names.txt": "\n".join([*STL10, ""]).encode(), "unlabeled_X.bin": b"", "fold_indices.txt": b""}
    for split in ("train", "test"):
        content = bytearray()
        for image in pixels[split]:  # one number after the other, as the description has it
            for channel in range(3):
                for column in range(96):
                    content += image[:, column, channel].tobytes()
        made[f"{split}_X.bin"] = bytes(content)
        made[f"{split}_y.bin"] = (labels[split] + 1).astype(np.uint8).tobytes()
    return made
