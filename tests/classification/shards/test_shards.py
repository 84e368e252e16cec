"""Shards are the folder that they were made of, whole or not there, in a format that others read."""

import fcntl
import hashlib
import json
import os
import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from classification.config import load_config
from classification.images.batches import training_batches
from classification.index import shard_files
from classification.index.index import open_index
from classification.index.remarks import remarks
from classification.index.shard_files import shard_name
from classification.index.split import SplitNotFound
from classification.sets.find import find_split
from classification.shards.make import JOURNAL, Options, make_shards
from classification.shards.mds import INDEX, Shard, write_set_index
from engine.errors import UserError, main_guard
from engine.images.reading import UnreadableImage
from places365.task import PLACES365_TASK
from tests.classification.index.archives import make_tar
from tests.classification.index.test_archives import picture, put
from tests.classification.sets.official_files import small_forms, write_set

LIMIT = 10_000  # bytes of a shard: some pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two splits: files of any name and kind, one that is no whole picture, one that is none."""
    files = {
        f"{split}/{name}/{number}.jpg": picture(zlib.crc32(f"{split}/{name}/{number}".encode()))
        for split, count in (("train", 20), ("val", 2))
        for name in ("aster", "tulip")
        for number in range(count)
    }
    files |= {"train/tulip/deep/er/1.png": picture(1, "PNG"), "train/aster/椅子.jpg": picture(3)}
    files |= {os.fsdecode(b"train/aster/caf\xe9.jpg"): picture(2), "train/aster/1.heic": b""}
    files |= {"train/tulip/torn.jpg": picture(4)[:500]}
    return put(tmp_path_factory.mktemp("data") / "set", files)


@pytest.fixture
def index(photos, tmp_path):
    return open_index(find_split(str(photos), "train"), tmp_path / "cache")


@pytest.fixture
def shards(index, tmp_path):
    """The folder of the training images' shards, in one of its own."""
    assert make(index, tmp_path / "shards" / "train") == []
    return tmp_path / "shards" / "train"


def make(index, folder, **options):
    given = {"limit": LIMIT, "max_broken_share": 0.2, "tell": lambda said: None} | options
    return make_shards(index, folder, Options(**given))


def opened(folder, cache, split="train", find=find_split):
    return open_index(find(str(folder), split, "auto"), cache)


def read(index, position):
    try:
        return index.read(position).tobytes()
    except UnreadableImage as error:
        return error.why


def everything(index):
    return [(index.name(i), index.label(i), read(index, i)) for i in range(len(index))]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_are_the_folder_that_they_were_made_of(index, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "MAX_OPEN", 2)
    expected = everything(index)
    for find in (find_split, PLACES365_TASK.find_split):
        for _ in range(2):  # read, and from the cache
            ours = opened(shards.parent, tmp_path / "cache", find=find)
            assert everything(ours) == expected and ours.classes == index.classes and not ours.of_files
            assert ours.fingerprint() == index.fingerprint() and ours.passed_over == index.passed_over
            assert remarks(ours, True) == remarks(index, True)
    assert [bytes(ours.content(i)) for i in range(len(index))] == [index.content(i) for i in range(len(index))]
    assert everything(pickle.loads(pickle.dumps(ours))) == expected
    sizes = [path.stat().st_size for path in sorted(shards.glob("*.mds"))]
    assert len(sizes) > 3 and max(sizes) <= LIMIT
    links = (Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    assert sum(str(link.readlink()).startswith(str(shards)) for link in links if link.is_symlink()) <= 2
    last = len(index) - 1
    assert ours.source == str(shards) and ours.path(0) == shards / shard_name(0) / index.name(0)
    assert ours.path(last) == shards / shard_name(len(sizes) - 1) / index.name(last)
    for position in (len(index), -1):
        with pytest.raises(IndexError):
            ours.open(position)


def test_shards_are_made_of_archives_pixels_and_shards(photos, index, shards, tmp_path, monkeypatch):
    archive = opened(make_tar(photos, tmp_path / "set.tar"), tmp_path / "cache")
    make(archive, tmp_path / "of_archive" / "train")
    assert {name: data for name, data in files(tmp_path / "of_archive" / "train").items() if name.endswith("mds")} == {
        name: data for name, data in files(shards).items() if name.endswith("mds")
    }
    make(opened(shards.parent, tmp_path / "cache"), tmp_path / "larger" / "train", limit=10**6)
    larger = opened(tmp_path / "larger", tmp_path / "cache")
    assert everything(larger) == everything(index) and larger.fingerprint() == index.fingerprint()
    assert len(list((tmp_path / "larger" / "train").glob("*.mds"))) == 1

    small_forms(monkeypatch)
    random = np.random.default_rng(0)
    pixels = {split: random.integers(0, 256, (n, 32, 32, 3), np.uint8) for split, n in (("train", 20), ("test", 4))}
    labels = {split: random.integers(0, 10, len(images)) for split, images in pixels.items()}
    official = opened(write_set("CIFAR-10", "binary", tmp_path / "cifar", pixels, labels), tmp_path / "cache")
    make(official, tmp_path / "of_pixels" / "train")
    ours = opened(tmp_path / "of_pixels", tmp_path / "cache")
    assert everything(ours) == everything(official) and ours.fingerprint() == official.fingerprint()


SAMPLES = [(bytes([number]) * (number * 37 % 300), number % 7 - 1, f"ça/{number}.jpg") for number in range(40)]
# SHA-256 of the files, in the order of their names, that mosaicml-streaming 0.13.0 makes of SAMPLES:
# MDSWriter(columns={"image": "bytes", "label": "int", "name": "str"}, size_limit=2000, hashes=["sha256"], …)
BY_MOSAICML = "c080ff211ce47951e099a317addaa89b99d91719aaefa9229d550d16ff696a67"


def test_the_files_are_those_of_mosaicml_streaming(tmp_path):
    rows, shard = [], Shard(2000)
    for image, label, name in SAMPLES:
        if not shard.add(image, label, name.encode()):
            rows.append(shard.write(tmp_path / shard_name(len(rows))))
            shard = Shard(2000)
            assert shard.add(image, label, name.encode())
    rows.append(shard.write(tmp_path / shard_name(len(rows))))
    write_set_index(tmp_path, rows)
    content = files(tmp_path)
    assert len(content) == 6
    assert hashlib.sha256(b"".join(content[name] for name in sorted(content))).hexdigest() == BY_MOSAICML


@pytest.fixture
def killed(index, tmp_path, monkeypatch):
    """(whole shards) → a folder of shards whose making was interrupted after so many."""

    def kill(after):
        write, left = Shard.write, [after]

        def interrupted(shard, path):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return write(shard, path)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Shard, "write", interrupted)
            make(index, tmp_path / "cut" / "train")
        return tmp_path / "cut" / "train"

    return kill


def test_what_was_interrupted_is_not_there_and_gone_on_with(index, shards, killed, tmp_path):
    folder = killed(2)
    work = folder.with_name("train.unfinished")
    assert not folder.exists() and len(list(work.glob("*.mds"))) == 2
    for find in (find_split, PLACES365_TASK.find_split):
        with pytest.raises(UserError, match=r"train\.unfinished was not made to its end: give the command"):
            find(str(folder.parent), "train", "auto")
    first = (work / shard_name(0)).stat()
    with open(work / JOURNAL, "a") as journal:  # killed within the line, the file being there
        journal.write('{"raw_data": {"basen')
    shutil.copy(work / shard_name(1), work / shard_name(2))
    killed(1)
    said = []
    assert make(index, folder, tell=said.append) == []
    assert len(said) == 1 and "in 3 shards are there" in said[0]
    assert files(folder) == files(shards) and not work.exists()
    assert (folder / shard_name(0)).stat().st_ino == first.st_ino
    before = files(folder)
    assert make(index, folder, tell=said.append) == [] and "is whole already" in said[1] and files(folder) == before


def test_a_shard_that_is_cut_off_is_written_again(index, shards, killed):
    folder = killed(3)
    os.truncate(folder.with_name("train.unfinished") / shard_name(1), 100)
    make(index, folder)
    assert files(folder) == files(shards)


def test_nothing_else_is_overwritten(index, photos, shards, killed, tmp_path):
    folder = killed(1)
    other = opened(photos, tmp_path / "cache", "val")
    for given, options in ((other, {}), (index, {"limit": 1000})):
        for place, advice in ((folder, "give the command that began it"), (shards, "name another folder")):
            with pytest.raises(
                UserError, match=rf"shards of other images or of another size \(44 images of .*{advice}"
            ):
                make(given, place, **options)
    put(tmp_path / "mine", {"train/notes.txt": b"mine", "val.unfinished/notes.txt": b"mine"})
    for split in ("train", "val"):
        with pytest.raises(UserError, match="holds something else than shards"):
            make(index, tmp_path / "mine" / split)
    assert files(tmp_path / "mine") == {"train/notes.txt": b"mine", "val.unfinished/notes.txt": b"mine"}
    descriptor = os.open(folder.with_name("train.unfinished"), os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process is making shards in"):
        make(index, folder)
    os.close(descriptor)


def test_images_that_cannot_be_read(photos, tmp_path):
    """They are as broken in the shards as in the folder, and a training replaces them by the same others."""
    data = shutil.copytree(photos, tmp_path / "set")
    index = opened(data, tmp_path / "cache")
    gone = [index.name(2), index.name(30)]
    for name in gone:
        (data / "train" / name).unlink()
    folder = tmp_path / "shards" / "train"
    with pytest.raises(UserError, match=r"2 of 44 images cannot be read, and 1 may be .*No such file") as caught:
        make(index, folder, max_broken_share=0.03)
    assert all(name in str(caught.value) for name in gone)
    assert make(index, folder, threads=3) == gone
    assert json.loads((folder / "made_of.json").read_text())["unreadable"] == gone
    ours = opened(folder.parent, tmp_path / "cache")
    with pytest.raises(UnreadableImage, match=rf"shards/train/shard\.00000\.mds/{gone[0]}: .*\(the file is empty\)"):
        ours.open(2)
    torn = ours.position("tulip/torn.jpg")
    with pytest.raises(UnreadableImage, match=r"train/shard\.0000\d\.mds/tulip/torn\.jpg: cannot be read as a picture"):
        ours.open(torn)
    words = "MODEL.DEVICE cpu INPUT.TRAIN_SIZE 32 SOLVER.IMS_PER_BATCH 9 SOLVER.MAX_ITER 10 DATALOADER.NUM_WORKERS {}"
    expected = None
    for place, workers in ((index, 0), (ours, 0), (ours, 2)):
        cfg = load_config(None, words.format(workers).split())
        batches = list(training_batches(place, cfg, 0, 0, 1))
        found = [(batch.images.numpy().tobytes(), batch.labels.tolist(), batch.chosen.tolist()) for batch in batches]
        broken = sorted({position for batch in batches for position, _ in batch.broken})
        assert broken == [2, 30, torn]
        expected = expected or found
        assert found == expected


def test_an_image_that_came_back_is_put_into_the_shards(photos, index, shards, tmp_path):
    data = shutil.copytree(photos, tmp_path / "set")
    again = opened(data, tmp_path / "cache")
    names = [again.name(2), again.name(40)]
    for name in names:
        (data / "train" / name).rename(tmp_path / name.replace("/", "_"))
    folder = tmp_path / "more" / "train"
    with pytest.raises(UserError, match="cannot be read"):
        make(again, folder, max_broken_share=0.03)
    for name in names:
        (tmp_path / name.replace("/", "_")).rename(data / "train" / name)
    assert make(again, folder) == []
    assert {n: d for n, d in files(folder).items() if n != "made_of.json"} == {
        n: d for n, d in files(shards).items() if n != "made_of.json"
    }


def test_damage_is_said(index, shards, tmp_path, load_tool, capsys):
    tool = load_tool("make_shards")

    def check():
        code = main_guard(lambda: tool.main(["--check", str(shards.parent)]))
        return code, "".join(capsys.readouterr())

    assert check() == (0, f"{shards.parent}: all shards are what they were\n")
    ours = opened(shards.parent, tmp_path / "cache")
    second, whole = shards / shard_name(1), (shards / shard_name(1)).read_bytes()
    position = next(i for i in range(len(ours)) if ours.path(i).parent.parent == second)
    ours.open(position)
    second.write_bytes(whole[:-1] + b"x")
    assert check() == (1, f"{second} has another checksum than when it was made\n")
    with pytest.raises(UserError, match=r"the shard .*shard\.00001\.mds was changed while it was in use"):
        ours.open(position)
    second.write_bytes(whole[:-1])
    assert check() == (1, f"{second} has {len(whole) - 1:,} bytes, and had {len(whole):,}\n")
    with pytest.raises(UserError, match=r"shard\.00001\.mds has .* bytes, and was made with .*: it is cut off"):
        opened(shards.parent, tmp_path / "cache")
    second.unlink()
    assert check() == (1, f"{second} is missing\n")
    with pytest.raises(UserError, match=r"there is no shard .*shard\.00001\.mds: the set is not whole"):
        opened(shards.parent, tmp_path / "cache")
    second.write_bytes(whole)
    assert check()[0] == 0

    (stored,) = shards.glob("images.*")
    for damaged in (stored / "index.json", stored / "names.npy", shards / INDEX):
        content = damaged.read_bytes()
        damaged.write_bytes(content[:-5] + b"     ")
        code, said = check()
        assert code == 2 and "is damaged (" in said and "copy the shards again" in said
        damaged.write_bytes(content)
    assert main_guard(lambda: tool.main(["--check", str(tmp_path)])) == 2
    assert "has no shards" in capsys.readouterr().err
    shutil.rmtree(stored)
    with pytest.raises(UserError, match="not the names and labels that tools/make_shards.py puts beside them"):
        opened(shards.parent, tmp_path / "cache")


def test_a_split_that_is_not_there(shards, photos, tmp_path):
    for find in (find_split, PLACES365_TASK.find_split):
        with pytest.raises(SplitNotFound, match=r"has shards of train, and none of the split 'val'"):
            find(str(shards.parent), "val", "auto")
        with pytest.raises(UserError, match="whose images have one size: DATA.IMAGES must be auto, not '256'"):
            find(str(shards.parent), "train", "256")


def test_the_command(photos, tmp_path, load_tool, capsys):
    tool, out = load_tool("make_shards"), tmp_path / "shards"
    words = ["--data", str(photos), "--out", str(out), "--size", "0.02", "--cache", str(tmp_path / "cache")]
    assert main_guard(lambda: tool.main(words)) == 0
    said = f"{out}/train: 44 images of 2 classes\n{out}/val: 4 images of 2 classes\n"
    assert capsys.readouterr().out == said
    assert all(path.stat().st_size <= 20_000 for path in out.rglob("*.mds"))
    assert main_guard(lambda: tool.main([*words, "--splits", "train", "dev"])) == 2
    assert "no split 'dev'" in capsys.readouterr().err
    for wrong in (["--data", "x"], [*words, "--check", "x"], [*words, "--size", "4001"], [*words, "--threads", "0"]):
        with pytest.raises(SystemExit) as ended:
            tool.main(wrong)
        assert ended.value.code == 2
