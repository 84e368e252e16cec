"""An index says what its split says, costs a worker no memory, and is never trusted when it is damaged or old."""

import gc
import logging
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from classification.index import index as index_module
from classification.index.class_folders import ClassFolders
from classification.index.index import make_index, open_index
from classification.index.split import Split
from engine.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
CLASSES = [f"class_{number}" for number in range(40)]


@dataclass(frozen=True)
class ListedImages(Split):
    """A split of a kind of its own: lines FOLDER/NAME LABEL in a file."""

    path: Path

    @property
    def source(self):
        return str(self.path)

    def key(self):
        return {"classes": self.classes, "text": self.path.read_text()[:100]}

    def read(self, folders, times, passed_over):
        times[str(self.path)] = self.path.stat().st_mtime_ns
        for line in self.path.read_bytes().splitlines():
            name, label = line.split()
            folder, _, name = name.rpartition(b"/")
            yield [folders.setdefault(os.fsdecode(folder), len(folders))], [int(label)], [name]


def old(path, seconds=1000):
    """As if the file or folder had last changed a while ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def list_split(folder, text):
    folder.mkdir(exist_ok=True)
    path = folder / "train.txt"
    path.write_text(text)
    old(path)
    return ListedImages("train", folder / "images", CLASSES, path)


def folder_split(folder, files, classes=("attic", "kitchen")):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    for path in [folder, *folder.rglob("*")]:
        old(path)
    return ClassFolders("train", folder, list(classes), tuple((name, i) for i, name in enumerate(classes)))


def train_text(count):
    return "".join(f"{CLASSES[i * 7 % 40]}/{i:08d}.jpg {i * 7 % 40}\n" for i in range(count))


def contents(index):
    return [(index.name(i), index.label(i)) for i in range(len(index))]


@pytest.fixture
def reads(monkeypatch):
    """Counts how often a split is read."""
    calls = []
    for kind in (ListedImages, ClassFolders):
        plain = kind.read
        monkeypatch.setattr(
            kind, "read", lambda self, *args, plain=plain: calls.append(self.name) or plain(self, *args)
        )
    return calls


def test_says_what_the_split_says(tmp_path):
    text = train_text(1000)
    index = open_index(list_split(tmp_path, text), tmp_path / "cache")
    wanted = [(line.split()[0], int(line.split()[1])) for line in text.splitlines()]
    assert contents(index) == wanted
    assert index.labels.tolist() == [label for _, label in wanted]
    assert index.path(3) == tmp_path / "images" / wanted[3][0]
    assert index.classes == CLASSES
    assert [index.folders[number] for number in index.folder_numbers[:2]] == ["class_0", "class_7"]
    with pytest.raises(IndexError, match="no image 1000 among the 1000"):
        index.name(1000)
    with pytest.raises(IndexError):
        index.label(-1)
    with pytest.raises(ValueError, match="read-only"):
        index.labels[0] = 1


def test_a_split_that_cannot_be_read_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="unpack"):
        open_index(list_split(tmp_path, "class_0/1.jpg 0\nclass_0/2.jpg\n"), tmp_path / "cache")
    (tmp_path / "set" / "kitchen").mkdir(parents=True)
    (tmp_path / "set" / "attic").mkdir(parents=True)
    with pytest.raises(UserError, match="has no images"):
        open_index(folder_split(tmp_path / "set", []), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []


# The cache


def test_a_split_is_read_once(tmp_path, reads):
    split = list_split(tmp_path, train_text(50))
    first = open_index(split, tmp_path / "cache")
    again = open_index(split, tmp_path / "cache")
    assert reads == ["train"]
    assert contents(first) == contents(again)
    for index in (first, again):
        for column in (index.labels, index.folder_numbers, index._offsets, index._names):
            assert isinstance(column.base, np.memmap)


def test_an_index_is_of_numpys_own_files(tmp_path):
    index = open_index(list_split(tmp_path, train_text(50)), tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "labels.npy", "folder_numbers.npy", "offsets.npy", "names.npy", "index.json",
    }  # fmt: skip
    assert (np.load(folder / "labels.npy", allow_pickle=False) == index.labels).all()
    names = np.load(folder / "names.npy", allow_pickle=False).tobytes()
    assert names.startswith(b"00000000.jpg00000001.jpg") and len(names) == 50 * 12


def test_a_changed_split_is_read_again(tmp_path, reads):
    split = list_split(tmp_path, "class_0/1.jpg 0\n")
    open_index(split, tmp_path / "cache")
    list_split(tmp_path, "class_0/1.jpg 0\nclass_4/1.jpg 4\n")  # another key, the same time
    assert len(open_index(split, tmp_path / "cache")) == 2
    old(split.path, 500)  # another time, the same key
    open_index(split, tmp_path / "cache")
    assert len(reads) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_split_that_was_just_written_is_not_relied_on(tmp_path, reads):
    split = list_split(tmp_path, "class_0/1.jpg 0\n")
    os.utime(split.path)
    open_index(split, tmp_path / "cache")
    open_index(split, tmp_path / "cache")
    assert len(reads) == 2


def test_class_folders_are_read_again_when_a_file_comes_or_goes(tmp_path, reads):
    folder = tmp_path / "train"
    split = folder_split(folder, ["attic/1.jpg", "kitchen/deep/2.jpg", "kitchen/1.jpg"])
    assert contents(open_index(split, tmp_path / "cache")) == [
        ("attic/1.jpg", 0),
        ("kitchen/1.jpg", 1),
        ("kitchen/deep/2.jpg", 1),
    ]
    open_index(split, tmp_path / "cache")
    assert len(reads) == 1
    folder_split(folder, [])
    (folder / "kitchen" / "deep" / "3.jpg").write_bytes(b"")
    assert len(open_index(split, tmp_path / "cache")) == 4
    (folder / "attic" / "1.jpg").unlink()
    assert len(open_index(split, tmp_path / "cache")) == 3
    assert len(reads) == 3


def test_an_index_of_other_classes_is_not_used(tmp_path, reads):
    folder = tmp_path / "train"
    open_index(folder_split(folder, ["attic/1.jpg", "kitchen/1.jpg"]), tmp_path / "cache")
    other = folder_split(folder, [], ["kitchen", "attic"])
    assert contents(open_index(other, tmp_path / "cache")) == [("kitchen/1.jpg", 0), ("attic/1.jpg", 1)]
    assert len(reads) == 2


def damages(path):
    """The file's bytes with one bit flipped, at each of many places, and cut at several."""
    whole = path.read_bytes()
    # the beginning, which says what it is, and places spread over the rest
    for place in sorted({*range(min(len(whole), 16)), *range(0, len(whole), max(len(whole) // 25, 1))}):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        yield f"bit at {place}", bytes(damaged)
    for size in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        yield f"cut at {size}", whole[:size]
    yield "doubled", whole + whole


@pytest.mark.parametrize("name", ["index.json", "labels.npy", "folder_numbers.npy", "offsets.npy", "names.npy"])
def test_a_damaged_cache_is_rebuilt_never_trusted(tmp_path, reads, caplog, name):
    split = list_split(tmp_path, train_text(30))
    wanted = contents(open_index(split, tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    whole = (folder / name).read_bytes()
    for number, (what, damaged) in enumerate(damages(folder / name), 1):
        (folder / name).write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert contents(open_index(split, tmp_path / "cache")) == wanted, what
        assert len(reads) == number + 1, f"{what}: the damaged cache was used"
        assert "is not used" in caplog.text
        (folder,) = (tmp_path / "cache").iterdir()
        assert (folder / name).read_bytes() == whole, f"{what}: the cache was not mended"


@pytest.mark.parametrize("name", ["index.json", "labels.npy"])
def test_a_cache_that_lacks_a_file_is_rebuilt(tmp_path, reads, name):
    split = list_split(tmp_path, train_text(30))
    wanted = contents(open_index(split, tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / name).unlink()
    assert contents(open_index(split, tmp_path / "cache")) == wanted and len(reads) == 2
    assert contents(open_index(split, tmp_path / "cache")) == wanted and len(reads) == 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_no_column_is_taken_from_a_pickle(tmp_path, caplog):
    """A file that numpy would unpickle, with its checksum in the description, is refused all the same."""
    from classification.index import columns

    split = list_split(tmp_path, train_text(30))
    wanted = contents(open_index(split, tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    np.save(folder / "labels.npy", np.array([object] * 30), allow_pickle=True)
    description = columns.json.loads((folder / "index.json").read_bytes())
    del description["checksum"]
    description["columns"]["labels"] = columns._checksum(folder / "labels.npy")
    checksum = columns.zlib.crc32(columns._json(description))
    (folder / "index.json").write_bytes(columns._json({"checksum": checksum, **description}))
    with caplog.at_level(logging.WARNING):
        assert contents(open_index(split, tmp_path / "cache")) == wanted
    assert "is not used" in caplog.text


def test_an_earlier_versions_cache_makes_way_silently(tmp_path, reads, caplog):
    split = list_split(tmp_path, train_text(30))
    open_index(split, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(folder)
    earlier = folder.with_suffix("")  # one file, SPLIT-HASH.index
    earlier.write_bytes(b"SEINDEX\n...")
    (tmp_path / "cache" / "other.index").write_bytes(b"of another set")
    open_index(split, tmp_path / "cache")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not earlier.exists() and len(list((tmp_path / "cache").iterdir())) == 2


def test_a_folder_in_the_way_or_an_unwritable_cache(tmp_path, reads, caplog):
    split = list_split(tmp_path, train_text(30))
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        index = open_index(split, tmp_path / "file" / "cache")
    assert "cannot be kept in the cache folder" in caplog.text
    assert "is not used" not in caplog.text
    assert contents(index)[1] == ("class_7/00000001.jpg", 7)
    place = index._stored[0].parent
    assert place.is_dir()
    assert contents(pickle.loads(pickle.dumps(index))) == contents(index)
    del index
    gc.collect()
    assert not place.exists()


def test_no_room_anywhere_is_an_error(tmp_path, monkeypatch):
    split = list_split(tmp_path, train_text(3))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_module, "write_index", full)
    with pytest.raises(UserError, match="No space left on device.*DATA.CACHE"):
        open_index(split, tmp_path / "cache")


def test_the_default_cache_folder(tmp_path, monkeypatch):
    split = list_split(tmp_path, train_text(3))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    open_index(split)
    assert len(list((tmp_path / "xdg" / "se-backbones").glob("*.index.*"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_index(split, "")
    assert len(list((tmp_path / "home" / ".cache" / "se-backbones").glob("*.index.*"))) == 1


def test_what_a_kill_left_is_removed(tmp_path):
    split = list_split(tmp_path, train_text(3))
    open_index(split, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    name = folder.with_suffix("").name
    stale, fresh, others = (
        tmp_path / "cache" / left for left in (f".{name}.1.part", f".{name}.2.part", ".my.own.part")
    )
    for left in (stale, fresh, others):
        left.mkdir()
    for left in (stale, others):
        old(left, 3 * 86400)
    old(split.path, 500)
    open_index(split, tmp_path / "cache")
    assert (stale.exists(), fresh.exists(), others.exists()) == (False, True, True)


# Several processes


def _build(split, cache, connection):
    index = open_index(split, cache)
    connection.send((len(index), int(index.labels.sum()), index.name(len(index) - 1)))


def test_processes_that_build_at_once_do_no_harm(tmp_path):
    split = list_split(tmp_path, train_text(3000))
    context = multiprocessing.get_context("fork")
    pairs = []
    for _ in range(4):
        ours, theirs = context.Pipe()
        process = context.Process(target=_build, args=(split, tmp_path / "cache", theirs))
        process.start()
        pairs.append((process, ours))
    found = {ours.recv() for _, ours in pairs}
    for process, _ in pairs:
        process.join()
    index = open_index(split, tmp_path / "cache")
    assert found == {(3000, int(index.labels.sum()), index.name(2999))}
    assert len(list((tmp_path / "cache").iterdir())) == 1  # and nothing temporary


def test_pickled_by_its_file(tmp_path):
    """A spawned worker gets a few bytes and maps the same file."""
    split = list_split(tmp_path, train_text(5000))
    index = open_index(split, tmp_path / "cache")
    pickled = pickle.dumps(index)
    assert len(pickled) < 1000
    code = (
        "import pickle, sys\n"
        "index = pickle.loads(sys.stdin.buffer.read())\n"
        "print(len(index), index.name(4999), index.label(4999), len(index.classes), index.path(0))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, cwd=ROOT, timeout=120)
    assert done.stdout.decode().split() == [
        "5000", index.name(4999), str(index.label(4999)), "40", str(index.path(0)), "False",
    ], done.stderr.decode()  # fmt: skip


def test_a_rebuilt_but_equal_index_still_unpickles_and_another_does_not(tmp_path):
    split = list_split(tmp_path, "class_0/1.jpg 0\n")
    pickled = pickle.dumps(open_index(split, tmp_path / "cache"))
    old(split.path, 500)
    open_index(split, tmp_path / "cache")
    assert pickle.loads(pickled).name(0) == "class_0/1.jpg"
    list_split(tmp_path, "class_4/1.jpg 4\n")
    open_index(split, tmp_path / "cache")
    with pytest.raises(UserError, match="was changed while it was in use"):
        pickle.loads(pickled)


def test_an_open_index_outlives_its_replacement(tmp_path):
    split = list_split(tmp_path, "class_0/1.jpg 0\n")
    first = open_index(split, tmp_path / "cache")
    list_split(tmp_path, "class_4/22.jpg 4\n")
    assert open_index(split, tmp_path / "cache").name(0) == "class_4/22.jpg"
    assert first.name(0) == "class_0/1.jpg" and first.label(0) == 0


# Made in memory


def test_made_in_memory(tmp_path):
    paths = ["kitchen/1.jpg", tmp_path / "attic" / "2.jpg", "3.jpg"]
    index = make_index(paths, [1, 0, -1], ["attic", "kitchen"], tmp_path)
    assert contents(index) == [("kitchen/1.jpg", 1), ("attic/2.jpg", 0), ("3.jpg", -1)]
    assert index.path(1) == tmp_path / "attic" / "2.jpg"
    again = pickle.loads(pickle.dumps(index))
    assert contents(again) == contents(index) and again.classes == index.classes
    assert len(make_index([], [], [], tmp_path)) == 0
    with pytest.raises(ValueError, match="label 2 is not in -1..1"):
        make_index(["1.jpg"], [2], ["attic", "kitchen"], tmp_path)
    with pytest.raises(ValueError, match="1 paths and 2 labels"):
        make_index(["1.jpg"], [1, 1], ["attic", "kitchen"], tmp_path)


def test_a_file_outside_the_root_keeps_its_path(tmp_path):
    assert make_index([tmp_path / "x" / "1.jpg"], [0], ["a"], tmp_path / "y").path(0) == tmp_path / "x" / "1.jpg"
