"""The official lists: what a line says, which lines are wrong, and when an index of a list is still true."""

import os
import pickle
import time

import pytest

from classification.index.index import open_index
from engine.errors import UserError
from places365 import official_list
from places365.categories import PLACES365
from places365.official_list import OfficialList


def old(path, seconds=1000):
    """As if the file had last changed a while ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def list_split(folder, text, name="train-standard", labelled=True):
    folder.mkdir(exist_ok=True)
    path = folder / f"places365_{name}.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    old(path)
    return OfficialList(name, folder / "data_256", list(PLACES365), path, labelled)


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
    """Counts how often a list is read."""
    calls = []
    plain = official_list.read_list
    monkeypatch.setattr(official_list, "read_list", lambda *args: calls.append(args[0].name) or plain(*args))
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
    monkeypatch.setattr(official_list, "_CHUNK", chunk)
    text = "\ufeff/a/airfield/1.jpg 0\r\n\r\n/z/zen_garden/ä ö.jpg 364\r\n/d/desert/sand/1.jpg\t116"
    index = open_index(list_split(tmp_path, text), tmp_path / "cache")
    assert contents(index) == [
        ("a/airfield/1.jpg", 0),
        ("z/zen_garden/ä ö.jpg", 364),
        ("d/desert/sand/1.jpg", 116),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_line_ends_as_on_any_system(tmp_path, end, labelled):
    names = [f"image {number:05d}.jpg" for number in range(3000)]
    split = list_split(tmp_path, end.join(f"{name} 7" if labelled else name for name in names), "val", labelled)
    assert official_list.has_labels(split.list_path) is labelled
    sample = official_list.sample_entries(split.list_path, labelled)
    assert len(sample) == 16 and sample[0] == names[0] and set(sample) <= set(names)
    assert contents(open_index(split, tmp_path / "cache")) == [(name, 7 if labelled else -1) for name in names]
    with split.list_path.open("ab") as file:
        file.write(f"{end}{end}wrong{end}".encode() if labelled else f"{end}{end}{names[0]}{end}".encode())
    with pytest.raises(UserError, match="line 3002: "):
        open_index(split, tmp_path / "cache")


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


def test_backslashes_are_slashes(tmp_path):
    split = list_split(tmp_path, ".\\d\\desert\\sand\\1.jpg 116\r\n")
    assert contents(open_index(split, tmp_path / "cache")) == [("d/desert/sand/1.jpg", 116)]
    assert official_list.sample_entries(split.list_path, True) == ["./d/desert/sand/1.jpg"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_a_list_in_another_encoding_says_so(tmp_path, encoding):
    text = "\ufeff/a/airfield/1.jpg 0\n" if encoding.endswith("le") else "/a/airfield/1.jpg 0\n"
    split = list_split(tmp_path, text.encode(encoding))
    for read in (
        lambda: open_index(split, tmp_path / "cache"),
        lambda: official_list.has_labels(split.list_path),
        lambda: official_list.sample_entries(split.list_path, True),
    ):
        with pytest.raises(UserError, match="is written in UTF-16: save it as UTF-8"):
            read()


@pytest.mark.parametrize("label", [165, 7])
def test_an_image_has_one_line(tmp_path, label):
    text = f"a/1.jpg 165\nb/1.jpg 3\n\n./a//1.jpg {label}\n"
    with pytest.raises(UserError, match=rf"line 4: './a//1.jpg {label}' is listed in line 1 already"):
        open_index(list_split(tmp_path, text, "val"), tmp_path / "cache")


def test_an_empty_list_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        open_index(list_split(tmp_path, "\n"), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []


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
