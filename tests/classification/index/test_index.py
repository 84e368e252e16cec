"""An index says what the list says, costs a worker no memory, and is never trusted when it is damaged or old."""

import gc
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from classification.index import index as index_module
from classification.index.index import make_index, open_index
from engine.errors import UserError
from places365.categories import PLACES365
from places365.layout import Split

ROOT = Path(__file__).resolve().parents[3]


def old(path, seconds=1000):
    """As if the file or folder had last changed a while ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def list_split(folder, text, name="train-standard", labelled=True):
    folder.mkdir(exist_ok=True)
    path = folder / f"places365_{name}.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    old(path)
    return Split(name, folder / "data_256", list(PLACES365), path, labelled=labelled)


def folder_split(folder, files, classes=("attic", "kitchen")):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    for path in folder.rglob("*"):
        old(path)
    return Split("train", folder, list(classes), folders=tuple((name, i) for i, name in enumerate(classes)))


def train_text(count):
    lines = []
    for i in range(count):
        label = i * 7 % 365
        lines.append(f"/{PLACES365[label][0]}/{PLACES365[label]}/{i:08d}.jpg {label}\n")
    return "".join(lines)


def contents(index):
    return [(index.name(i), index.label(i)) for i in range(len(index))]


@pytest.fixture
def reads(monkeypatch):
    """Counts how often a list or folders are read."""
    calls = []
    plain = index_module.read_split
    monkeypatch.setattr(index_module, "read_split", lambda *args: calls.append(args[0].name) or plain(*args))
    return calls


def test_says_what_the_list_says(tmp_path):
    text = train_text(1000)
    index = open_index(list_split(tmp_path, text), tmp_path / "cache")
    wanted = [(line.split()[0].lstrip("/"), int(line.split()[1])) for line in text.splitlines()]
    assert contents(index) == wanted
    assert index.labels.tolist() == [label for _, label in wanted]
    assert index.path(3) == tmp_path / "data_256" / wanted[3][0]
    assert index.classes == list(PLACES365)
    assert [index.folders[number] for number in index.folder_numbers[:2]] == ["a/airfield", "a/amusement_park"]
    with pytest.raises(IndexError, match="no image 1000 among the 1000"):
        index.name(1000)
    with pytest.raises(IndexError):
        index.label(-1)
    with pytest.raises(ValueError, match="read-only"):
        index.labels[0] = 1


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_lists_are_read_in_pieces(tmp_path, monkeypatch, chunk):
    from places365 import official_list

    monkeypatch.setattr(official_list, "_CHUNK", chunk)
    text = "\ufeff/a/airfield/1.jpg 0\r\n\r\n/z/zen_garden/ä ö.jpg 364\r\n/d/desert/sand/1.jpg\t116"
    index = open_index(list_split(tmp_path, text), tmp_path / "cache")
    assert contents(index) == [
        ("a/airfield/1.jpg", 0),
        ("z/zen_garden/ä ö.jpg", 364),
        ("d/desert/sand/1.jpg", 116),
    ]


def test_val_and_test_lists(tmp_path):
    val = list_split(tmp_path, "Places365_val_00000001.jpg 165\nPlaces365_val_00000002.jpg 0\n", "val")
    assert contents(open_index(val, tmp_path)) == [
        ("Places365_val_00000001.jpg", 165),
        ("Places365_val_00000002.jpg", 0),
    ]
    test = list_split(tmp_path, "Places365_test_00000001.jpg\n", "test", labelled=False)
    assert contents(open_index(test, tmp_path)) == [("Places365_test_00000001.jpg", -1)]


def test_names_that_are_not_utf8_survive(tmp_path):
    split = list_split(tmp_path, b"/a/airfield/\xff.jpg 0\n")
    index = open_index(split, tmp_path / "cache")
    assert os.fsencode(index.name(0)) == b"a/airfield/\xff.jpg"
    assert pickle.loads(pickle.dumps(index)).name(0) == index.name(0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/a/airfield/2.jpg 365", r"the class index is not in 0\.\.364"),
        ("/a/airfield/2.jpg " + "9" * 5000, r"the class index is not in 0\.\.364"),
        ("/a/airfield/2.jpg 00000000000365", r"the class index is not in 0\.\.364"),
        ("/a/airfield/2.jpg -1", "the class index '-1' is not a whole number"),
        ("/a/airfield/2.jpg 1_0", "the class index '1_0' is not a whole number"),
        ("/a/airfield/2.jpg x", "the class index 'x' is not a whole number"),
        ("/a/airfield/2.jpg", "is not a file name and its class index"),
        ("7", "is not a file name and its class index"),
        ("/a/airfield/ 0", "is not a file name and its class index"),
        ("/a/airfield/2.jpg 1", r"the folder 'a/airfield' is not that of class 1, which is airplane_cabin"),
        ("/d/desert_road/2.jpg 116", "is not that of class 116, which is desert/sand"),
        ("/x/unknown/2.jpg 0", "the folder 'x/unknown' is not that of class 0"),
        ("2.jpg 0", "the folder '' is not that of class 0"),
        ("/a/airfield/../../../etc/2.jpg 0", "points out of the image folder"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    split = list_split(tmp_path, f"/a/airfield/1.jpg 0\n\n{line}\n")
    with pytest.raises(UserError, match=rf"train-standard\.txt, line 3: .*{message}"):
        open_index(split, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []


def test_val_names_lie_in_no_class_folder_but_may_not_leave_theirs(tmp_path):
    with pytest.raises(UserError, match="line 1: .*points out"):
        open_index(list_split(tmp_path, "../1.jpg 0\n", "val"), tmp_path / "cache")


def test_empty_sets_are_an_error(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        open_index(list_split(tmp_path, "\n"), tmp_path / "cache")
    (tmp_path / "set" / "kitchen").mkdir(parents=True)
    (tmp_path / "set" / "attic").mkdir(parents=True)
    with pytest.raises(UserError, match="has no images"):
        open_index(folder_split(tmp_path / "set", []), tmp_path / "cache")


# The cache


def test_a_list_is_read_once(tmp_path, reads):
    split = list_split(tmp_path, train_text(50))
    first = open_index(split, tmp_path / "cache")
    again = open_index(split, tmp_path / "cache")
    assert reads == ["train-standard"]
    assert contents(first) == contents(again)
    assert isinstance(again.labels.base, np.memmap) or isinstance(again.labels.base.base, np.memmap)


def test_a_changed_list_is_read_again(tmp_path, reads):
    split = list_split(tmp_path, "/a/airfield/1.jpg 0\n")
    open_index(split, tmp_path / "cache")
    list_split(tmp_path, "/a/airfield/1.jpg 0\n/a/alley/1.jpg 4\n")
    assert len(open_index(split, tmp_path / "cache")) == 2
    # the same size and time, other bytes
    modified = split.list_path.stat()
    split.list_path.write_text("/a/airfield/1.jpg 0\n/a/alley/9.jpg 4\n")
    os.utime(split.list_path, ns=(modified.st_atime_ns, modified.st_mtime_ns))
    assert open_index(split, tmp_path / "cache").name(1) == "a/alley/9.jpg"
    old(split.list_path, 500)
    open_index(split, tmp_path / "cache")
    assert len(reads) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_list_that_was_just_written_is_not_relied_on(tmp_path, reads):
    split = list_split(tmp_path, "/a/airfield/1.jpg 0\n")
    os.utime(split.list_path)
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
    # all of the trailer and the description's beginning, and places spread over the rest
    places = {*range(len(whole) - 32, len(whole)), *range(8, len(whole), max(len(whole) // 60, 1))}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        yield f"bit at {place}", bytes(damaged)
    for size in (0, 1, 20, len(whole) // 2, len(whole) - 24, len(whole) - 1):
        yield f"cut at {size}", whole[:size]
    yield "doubled", whole + whole[8:]


def test_a_damaged_cache_is_rebuilt_never_trusted(tmp_path, reads, caplog):
    split = list_split(tmp_path, train_text(30))
    wanted = contents(open_index(split, tmp_path / "cache"))
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    for number, (what, damaged) in enumerate(damages(path), 1):
        path.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert contents(open_index(split, tmp_path / "cache")) == wanted, what
        assert len(reads) == number + 1, f"{what}: the damaged cache was used"
        assert "is not used" in caplog.text
        assert path.read_bytes() == whole, f"{what}: the cache was not mended"


def test_a_folder_in_the_way_or_an_unwritable_cache(tmp_path, reads, caplog):
    split = list_split(tmp_path, train_text(30))
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        index = open_index(split, tmp_path / "file" / "cache")
    assert "cannot be kept in the cache folder" in caplog.text
    assert "is not used" not in caplog.text
    assert contents(index)[1] == ("a/amusement_park/00000001.jpg", 7)
    place = index._file[0]
    assert place.is_file()
    assert contents(pickle.loads(pickle.dumps(index))) == contents(index)
    del index
    gc.collect()
    assert not place.exists() and not place.parent.exists()


def test_no_room_anywhere_is_an_error(tmp_path, monkeypatch):
    split = list_split(tmp_path, train_text(3))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_module, "write_index_file", full)
    with pytest.raises(UserError, match="No space left on device.*DATA.CACHE"):
        open_index(split, tmp_path / "cache")


def test_the_default_cache_folder(tmp_path, monkeypatch):
    split = list_split(tmp_path, train_text(3))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    open_index(split)
    assert len(list((tmp_path / "xdg" / "se-backbones").glob("*.index"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_index(split, "")
    assert len(list((tmp_path / "home" / ".cache" / "se-backbones").glob("*.index"))) == 1


def test_what_a_kill_left_is_removed(tmp_path):
    split = list_split(tmp_path, train_text(3))
    (tmp_path / "cache").mkdir()
    stale, fresh = tmp_path / "cache" / ".a.1.part.index", tmp_path / "cache" / ".b.2.part.index"
    stale.write_text("")
    fresh.write_text("")
    old(stale, 3 * 86400)
    open_index(split, tmp_path / "cache")
    assert (stale.exists(), fresh.exists()) == (False, True)


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
        "5000", index.name(4999), str(index.label(4999)), "365", str(index.path(0)), "False",
    ], done.stderr.decode()  # fmt: skip


def test_a_rebuilt_but_equal_index_still_unpickles_and_another_does_not(tmp_path):
    split = list_split(tmp_path, "/a/airfield/1.jpg 0\n")
    pickled = pickle.dumps(open_index(split, tmp_path / "cache"))
    old(split.list_path, 500)
    open_index(split, tmp_path / "cache")
    assert pickle.loads(pickled).name(0) == "a/airfield/1.jpg"
    list_split(tmp_path, "/a/alley/1.jpg 4\n")
    open_index(split, tmp_path / "cache")
    with pytest.raises(UserError, match="was changed while it was in use"):
        pickle.loads(pickled)


def test_an_open_index_outlives_its_replacement(tmp_path):
    split = list_split(tmp_path, "/a/airfield/1.jpg 0\n")
    first = open_index(split, tmp_path / "cache")
    list_split(tmp_path, "/a/alley/22.jpg 4\n")
    assert open_index(split, tmp_path / "cache").name(0) == "a/alley/22.jpg"
    assert first.name(0) == "a/airfield/1.jpg" and first.label(0) == 0


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
