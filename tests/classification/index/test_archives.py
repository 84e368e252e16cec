"""Class folders in an archive are what they are on disk, read in place, and never garbage where it was changed."""

import gc
import io
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classification.index import archive as archive_module
from classification.index.class_folders import IN_NO_CLASS, find_split
from classification.index.index import open_index
from classification.index.remarks import remarks
from classification.index.split import SplitNotFound, UnsortedImages
from engine.errors import UserError
from engine.images.reading import UnreadableImage
from tests.classification.index.archives import make_tar, make_zip

ROOT = Path(__file__).resolve().parents[3]


def picture(seed, kind="JPEG"):
    data, pixels = io.BytesIO(), np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def put(folder, files):
    for name, data in files.items():
        path = os.path.join(os.fsencode(folder), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    return folder


def old(path):
    """As if it had last changed a while ago, so that its index is relied on."""
    then = time.time() - 1000
    os.utime(path, (then, then))
    return path


@pytest.fixture
def folder(tmp_path):
    """Two splits of three classes, with everything beside the images that lies in folders of people."""
    files = {
        f"{split}/{name}/{number}.jpg": picture(zlib.crc32(f"{split}/{name}/{number}".encode()))
        for split, count in (("train", 5), ("val", 2))
        for name in ("aster", "tulip")
        for number in range(count)
    }
    files |= {"train/tulip/deep/er/1.png": picture(1, "PNG"), "train/tulip/without_suffix": picture(2)}
    files |= {"train/tulip/notes": b"no picture", "train/tulip/list.txt": b"", "train/aster/1.heic": b""}
    files |= {"train/.hidden.jpg": b"", "train/.thumbs/1.jpg": b"", "train/tulip/._1.jpg": b"", "train/stray.jpg": b""}
    files |= {"train/__MACOSX/aster/1.jpg": b"", "train/aster/Thumbs.db": b"", "readme.txt": b"of the set"}
    put(tmp_path / "set", files)
    return tmp_path / "set"


def contents(index):
    return [(index.name(i), index.label(i), index.read(i).tobytes()) for i in range(len(index))]


MAKERS = {
    "zip": make_zip,
    "zip with folders": lambda *given: make_zip(*given, folders=True),
    "zip of a folder": lambda *given: make_zip(*given, top="my set/"),
    "zip64": lambda *given: make_zip(*given, big=True),
    "tar": make_tar,
    "tar without folders": lambda *given: make_tar(*given, folders=False),
    "tar of .": lambda *given: make_tar(*given, top="./"),
    "tar of a folder": lambda *given: make_tar(*given, top="my set/"),
    "pax": lambda *given: make_tar(*given, form=tarfile.PAX_FORMAT),
    "ustar": lambda *given: make_tar(*given, form=tarfile.USTAR_FORMAT),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_an_archive_is_the_folder_that_it_was_made_of(folder, tmp_path, maker):
    path = old(MAKERS[maker](folder, tmp_path / "archive"))  # told by its content
    (tmp_path / "set" / "train" / "__MACOSX").rename(tmp_path / "mac")
    for split, count in (("train", 12), ("val", 4)):
        expected = open_index(find_split(folder, split), tmp_path / "cache")
        for _ in range(2):  # read, and from the cache
            index = open_index(find_split(path, split), tmp_path / "cache")
            assert contents(index) == contents(expected) and len(index) == count
            assert index.classes == expected.classes and index.fingerprint() == expected.fingerprint()
            assert index.passed_over == expected.passed_over
            assert remarks(index, True) == remarks(expected, True)
            top = path / "my set" if "folder" in maker and "of a" in maker else path
            assert index.source == str(top / split) and index.path(0) == top / split / "aster" / "0.jpg"
    train = open_index(find_split(path, "train"), tmp_path / "cache")
    assert train.passed_over == {".heic": 1, ".txt": 1, "without suffix": 1, IN_NO_CLASS: 1}


def test_a_class_without_images_is_one_where_its_folder_is_in_the_archive(folder, tmp_path):
    (folder / "train" / "empty").mkdir()
    for make in (MAKERS["zip with folders"], MAKERS["tar"]):
        assert find_split(make(folder, tmp_path / "archive"), "train").classes == ["aster", "empty", "tulip"]
    assert find_split(make_zip(folder, tmp_path / "x.zip"), "train").classes == ["aster", "tulip"]


def test_the_rules_of_class_folders_hold_in_archives(tmp_path):
    put(tmp_path / "a", {"train/aster/1.jpg": b"", "val/tulip/1.jpg": b"", "test/1.jpg": b""})
    put(tmp_path / "b", {"x/train/aster/1.jpg": b"", "y/train/tulip/1.jpg": b""})
    put(tmp_path / "c", {"train/images/aster/1.jpg": b"", "train/images/tulip/1.jpg": b""})
    for make in (make_zip, make_tar):
        path = make(tmp_path / "a", tmp_path / "archive")
        with pytest.raises(UserError, match=r"archive/val has classes that .*archive/train lacks: tulip"):
            find_split(path, "val")
        with pytest.raises(UnsortedImages, match="archive/test has 1 image and no class folders"):
            find_split(path, "test")
        with pytest.raises(SplitNotFound, match="no class folders dev/<class> in .*archive"):
            find_split(path, "dev")
        with pytest.raises(UserError, match="archive/x, .*archive/y each have a folder 'train'"):
            find_split(make(tmp_path / "b", tmp_path / "archive"), "train")
        with pytest.raises(UserError, match="one class folder alone, images, with the folders aster, tulip"):
            find_split(make(tmp_path / "c", tmp_path / "archive"), "train")


def test_names_of_any_bytes(tmp_path):
    names = ["café", "椅子", os.fsdecode(b"caf\xe9"), "bed\nroom", "a b", "x" * 120]
    files = {f"train/{folder}/{name}.jpg": picture(1) for folder in names for name in (*names, "y" * 90)}
    put(tmp_path / "set", files)
    expected = contents(open_index(find_split(tmp_path / "set", "train"), tmp_path / "cache"))
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = make_tar(tmp_path / "set", tmp_path / "x.tar", form=form)
        assert contents(open_index(find_split(path, "train"), tmp_path / "cache")) == expected
    stand_ins = {name: f"{number:04}".rjust(len(os.fsencode(name)), "z") for number, name in enumerate(files)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, stand_in in stand_ins.items():
            archive.writestr(stand_in, files[name])
    data = (tmp_path / "x.zip").read_bytes()
    for name, stand_in in stand_ins.items():  # as zip on Unix writes them: bytes, whatever they are
        data = data.replace(stand_in.encode(), os.fsencode(name))
    (tmp_path / "x.zip").write_bytes(data)
    assert contents(open_index(find_split(tmp_path / "x.zip", "train"), tmp_path / "cache")) == expected


def test_a_zip_of_windows(tmp_path):
    """Backslashes, and names in code page 437."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("train|tulip|caf_.jpg")
        info.create_system = 0
        archive.writestr(info, picture(1))
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"train|tulip|caf_.jpg", b"train\\tulip\\caf\x82.jpg"))
    split = find_split(tmp_path / "x.zip", "train")
    assert split.classes == ["tulip"] and open_index(split, tmp_path / "cache").name(0) == "tulip/café.jpg"


def test_of_several_files_with_one_name_the_last_counts(tmp_path):
    first, last = picture(1), picture(2)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped, tarfile.open(tmp_path / "x.tar", "w") as tarred:
        for data in (first, last):
            with pytest.warns(UserWarning) if data is last else nullcontext():
                zipped.writestr("train/aster/1.jpg", data)
            info = tarfile.TarInfo("train/aster/1.jpg")
            info.size = len(data)
            tarred.addfile(info, io.BytesIO(data))
    expected = np.asarray(Image.open(io.BytesIO(last)))
    for name in ("x.zip", "x.tar"):
        index = open_index(find_split(tmp_path / name, "train"), tmp_path / "cache")
        assert len(index) == 1 and np.abs(index.read(0).astype(int) - expected).max() <= 2


def test_hard_links_are_images_and_other_links_are_counted(folder, tmp_path):
    os.link(folder / "train" / "aster" / "0.jpg", folder / "train" / "tulip" / "same.jpg")
    (folder / "train" / "tulip" / "link.jpg").symlink_to("../aster/0.jpg")
    index = open_index(find_split(make_tar(folder, tmp_path / "x.tar"), "train"), tmp_path / "cache")
    same = index.position("tulip/same.jpg")
    assert index.label(same) == 1 and (index.read(same) == index.read(index.position("aster/0.jpg"))).all()
    zipped = open_index(find_split(make_zip(folder, tmp_path / "x.zip", links=True), "train"), tmp_path / "cache")
    for one in (index, zipped):
        assert one.passed_over["links"] == 1 and one.position("tulip/link.jpg") is None
        assert any("1 links" in remark for remark in remarks(one, True))


# What cannot be read in place, or is damaged


def test_a_packed_or_encrypted_image_is_refused_and_other_files_may_be_packed(folder, tmp_path):
    def packed(name):
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*.*")):
                if file.is_file():
                    there = file.relative_to(folder).as_posix()
                    archive.write(file, there, zipfile.ZIP_DEFLATED if there == name else zipfile.ZIP_STORED)
        return path

    with pytest.raises(UserError, match=r"x\.zip/train/aster/3\.jpg is packed \(deflated\).*zip -0 -r"):
        open_index(find_split(packed("train/aster/3.jpg"), "train"), tmp_path / "cache")
    assert len(open_index(find_split(packed("readme.txt"), "train"), tmp_path / "cache")) == 11
    path = make_zip(folder, tmp_path / "y.zip")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"train/aster/3.jpg") - 46 + 8
    data[at] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"y\.zip/train/aster/3\.jpg is encrypted.*zip -0 -r"):
        open_index(find_split(path, "train"), tmp_path / "cache")


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_what_is_packed_as_a_whole_is_refused(folder, tmp_path, mode, name):
    with tarfile.open(tmp_path / "x.tar", mode) as archive:
        archive.add(folder, "set")
    with pytest.raises(UserError, match=rf"x\.tar is packed as a whole \({name}\).*Unpack it.*tar -cf"):
        find_split(tmp_path / "x.tar", "train")


@pytest.mark.parametrize("data", [b"", b"no archive", picture(1), bytes(4096)])
def test_another_file_is_refused(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UserError, match="x is (empty|neither a zip nor a tar)"):
        find_split(tmp_path / "x", "train")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_cut_archive_is_refused_wherever_it_is_cut(folder, tmp_path, make):
    whole = make(folder, tmp_path / "whole").read_bytes()
    path, last = tmp_path / "x", len(whole.rstrip(b"\0")) if make is make_tar else len(whole) - 1
    for size in {*range(1, last, max(last // 60, 1)), *range(512, last, 5120), last}:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="x is a damaged archive|neither a zip nor a tar"):
            find_split(path, "train")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_damage_is_refused_or_is_within_an_image(folder, tmp_path, make):
    """Nothing but errors for people, and no other image under an image's name."""
    whole = bytearray(make(folder, tmp_path / "whole").read_bytes())
    expected = {name: pixels for name, _, pixels in contents(open_index(find_split(folder, "train"), tmp_path / "c"))}
    random, refused = np.random.default_rng(0), 0
    for place in random.integers(0, len(whole), 150):
        path, damaged = tmp_path / "x", bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            index = open_index(find_split(path, "train"), tmp_path / "cache")
        except UserError:
            refused += 1
            continue
        wrong = 0
        for position in range(len(index)):
            try:
                pixels = index.read(position).tobytes()
            except UnreadableImage as error:
                assert "/x/train/" in str(error)
                wrong += 1
            else:
                wrong += pixels != expected.get(index.name(position), pixels)
        assert wrong <= 1
    assert refused


def test_damage_in_a_header_is_refused(folder, tmp_path):
    """A tar's headers have a checksum; of a zip's that in front of the data has to fit the directory."""
    random, path = np.random.default_rng(0), tmp_path / "x"

    def refuses(data, place):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="x is a damaged archive|neither a zip nor a tar"):
            open_index(find_split(path, "train"), tmp_path / "cache")

    whole = make_tar(folder, path).read_bytes()
    with tarfile.open(path) as archive:
        headers = [member.offset for member in archive]
    for header in headers[2:]:
        refuses(whole, header + int(random.choice([*range(148), *range(156, 500)])))
    whole = make_zip(folder, path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        headers = [info.header_offset for info in archive.infolist() if info.filename.startswith("train/aster/0.")]
    for at in (0, 1, 2, 3, 8, 9, 26, 27):  # the mark, the method, the name's length
        refuses(whole, headers[0] + at)


def test_a_part_of_several_is_refused(folder, tmp_path):
    path = make_zip(folder, tmp_path / "x.zip")
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02") + 34  # the number of the part that the last file begins in
    path.write_bytes(data[:at] + struct.pack("<H", 2) + data[at + 2 :])
    with pytest.raises(UserError, match="one part of a zip of several"):
        find_split(path, "train")


# Use


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_changed_archive_is_listed_anew_and_under_use_an_error(folder, tmp_path, make):
    path = old(make(folder, tmp_path / "x"))
    index = open_index(find_split(path, "train"), tmp_path / "cache")
    pickled = pickle.dumps(index)
    before = contents(index)
    put(folder, {"train/aster/0.jpg": picture(77)})
    make(folder, tmp_path / "y").rename(path)  # another file under its name: who reads the former goes on with it
    assert contents(index) == before
    again = open_index(find_split(path, "train"), tmp_path / "cache")
    assert contents(again)[0] != before[0] and contents(again)[1:] == before[1:]
    with pytest.raises(UserError, match="was changed while it was in use"):
        contents(pickle.loads(pickled))
    make(folder, path)  # written over, with equal names at equal places
    with pytest.raises(UserError, match=r"x was changed while it was in use.*--resume"):
        again.open(0)
    path.unlink()
    with pytest.raises(UserError, match="cannot open the archive .*x: No such file"):
        pickle.loads(pickle.dumps(again)).open(0)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_the_cached_index_is_used_and_lists_no_images(folder, tmp_path, make, monkeypatch):
    path = old(make(folder, tmp_path / "x"))
    split = find_split(path, "train")
    expected = contents(open_index(split, tmp_path / "cache"))
    monkeypatch.setattr(archive_module.Archive, "place", None)
    assert contents(open_index(split, tmp_path / "cache")) == expected


def _report(index, connection):
    connection.send((contents(index), index._archive._descriptor.process == os.getpid()))


def test_forked_and_pickled_it_reads_by_a_descriptor_of_its_own(folder, tmp_path):
    index = open_index(find_split(make_zip(folder, tmp_path / "x.zip"), "train"), tmp_path / "cache")
    expected = contents(index)
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_report, args=(index, theirs))
    process.start()
    assert ours.recv() == (expected, True)
    process.join()
    code = (
        "import pickle, sys, zlib\n"
        "index = pickle.loads(sys.stdin.buffer.read())\n"
        "print([zlib.crc32(index.read(i)) for i in range(len(index))], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(index), capture_output=True, cwd=ROOT, timeout=120
    )
    assert done.stdout.decode().strip() == f"{[zlib.crc32(pixels) for _, _, pixels in expected]} False", done.stderr
    archive_module._latest.clear()  # the listing has one, too
    assert _descriptors(tmp_path / "x.zip") == 1
    del index
    gc.collect()
    assert _descriptors(tmp_path / "x.zip") == 0


def _descriptors(path):
    """How many this process has of a file."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(link) and os.readlink(link) == str(path) for link in links)


def test_a_broken_image_is_named_as_one_of_the_archive(tmp_path):
    files = {"empty": b"", "page": b"<html>", "pointer": b"version https://git-lfs", "cut": picture(1)[:-50]}
    put(tmp_path / "set", {f"train/aster/{name}.jpg": data for name, data in files.items()})
    path = make_zip(tmp_path / "set", tmp_path / "x.zip")
    archived = open_index(find_split(path, "train"), tmp_path / "cache")
    on_disk = open_index(find_split(tmp_path / "set", "train"), tmp_path / "cache")
    for position in range(len(files)):
        with pytest.raises(UnreadableImage) as expected:
            on_disk.read(position)
        with pytest.raises(UnreadableImage) as found:
            archived.read(position)
        assert found.value.why == expected.value.why
        assert str(found.value) == str(expected.value).replace(f"{tmp_path}/set", f"{tmp_path}/x.zip")
