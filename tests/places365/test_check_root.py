"""The check finds what is missing, empty, unreadable or in no list, and says so by its exit code."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from engine.errors import UserError, main_guard
from places365 import check_root as module
from places365.check_root import check_root, format_report
from tests.classification.index.archives import make_tar, make_zip

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_places365.py"
TRAIN = [
    ("a/airfield/00000001.jpg", 0),
    ("d/desert/sand/00000001.jpg", 116),
    ("a/airfield/00000002.jpg", 0),
    ("a/alley/00000001.jpg", 4),
]
VAL = [("Places365_val_00000001.jpg", 165), ("Places365_val_00000002.jpg", 0)]


def jpeg(quality=75):
    data = io.BytesIO()
    Image.effect_noise((64, 48), 60).convert("RGB").save(data, "JPEG", quality=quality)
    return data.getvalue()


JPEG = jpeg()


def put(path, data=JPEG):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def root(tmp_path):
    """A whole Places365 root, small ones of everything."""
    root = tmp_path / "places365"
    for name, _ in TRAIN:
        put(root / "data_256" / name)
    for name, _ in VAL:
        put(root / "val_256" / name)
    (root / "places365_train_standard.txt").write_text("".join(f"/{name} {label}\n" for name, label in TRAIN))
    (root / "places365_val.txt").write_text("".join(f"{name} {label}\n" for name, label in VAL))
    (root / "places365_test.txt").write_text("Places365_test_00000001.jpg\n")
    return root


@pytest.fixture
def check(root, tmp_path):
    return lambda **options: check_root(root, cache=tmp_path / "cache", **options)


def files(part, kind):
    return [one["file"] for one in part[kind]]


def test_counts(check, root):
    report = check()
    assert list(report["splits"]) == ["train-standard", "val"]
    train, val = report["splits"].values()
    assert (train["images"], train["classes"], val["images"]) == (4, 365, 2)
    assert train["most"][0] == ["airfield", 2] and ["desert/sand", 1] in train["fewest"]
    assert [count for _, count in train["fewest"]] == [1, 1, 2]
    assert len(train["without_images"]) == 362 and "alley" not in train["without_images"]
    assert train["image_root"] == str(root / "data_256")
    assert train["notes"] == ["the official split has 1,803,460 images, this list 4"]
    assert "test" in report["not_found"] and "train-challenge" in report["not_found"]
    assert report["problems"] == 362  # classes that nothing could teach; in val they may be absent
    json.dumps(report, allow_nan=False)


def test_missing_and_empty_files(check, root):
    (root / "data_256" / TRAIN[2][0]).unlink()
    (root / "data_256" / TRAIN[1][0]).unlink()
    (root / "data_256" / TRAIN[1][0]).parent.rmdir()
    put(root / "data_256" / TRAIN[0][0], b"")
    (root / "val_256" / VAL[0][0]).unlink()
    (root / "val_256" / VAL[0][0]).symlink_to("nowhere.jpg")
    report = check()
    train, val = report["splits"].values()
    assert files(train, "missing") == [TRAIN[1][0], TRAIN[2][0]]
    assert files(train, "empty") == [TRAIN[0][0]]
    assert files(val, "missing") == [VAL[0][0]] and val["empty"] == []
    assert report["problems"] == 362 + 4
    text = format_report(report)
    assert f"2 missing (in the list or index, but not on disk): {TRAIN[1][0]}, {TRAIN[2][0]}" in text
    assert "366 problems; no file was decoded" in text


def test_deep_finds_what_cannot_be_decoded(check, root):
    put(root / "data_256" / TRAIN[1][0], JPEG[: len(JPEG) // 2])
    put(root / "data_256" / TRAIN[3][0], b"not an image")
    put(root / "data_256" / TRAIN[0][0], b"")
    assert files(check()["splits"]["train-standard"], "unreadable") == []
    report = check(deep=True, threads=3)
    train = report["splits"]["train-standard"]
    assert files(train, "unreadable") == [TRAIN[1][0], TRAIN[3][0]]  # the empty one is said once, as empty
    assert all(one["message"] for one in train["unreadable"])
    assert report["splits"]["val"]["unreadable"] == []
    assert report["problems"] == 362 + 3
    assert "every file was decoded" in format_report(report)


def test_deep_keeps_the_order_over_many_pieces(check, root, monkeypatch):
    monkeypatch.setattr(module, "_READ_AT_ONCE", 2)
    monkeypatch.setattr(module, "_decode", lambda index, i: f"bad {index.path(i).name}")
    report = check(deep=True)
    assert [(one["file"], one["message"]) for one in report["splits"]["train-standard"]["unreadable"]] == [
        (name, f"bad {Path(name).name}") for name, _ in TRAIN
    ]


def test_files_in_no_list(check, root):
    put(root / "data_256" / "a" / "airfield" / "99.jpg")
    put(root / "data_256" / "b" / "beach" / "1.JPG")
    put(root / "data_256" / "stray.png")
    put(root / "data_256" / "a" / "airfield" / "notes.txt")
    put(root / "data_256" / "a" / ".trash" / "1.jpg")
    (root / "places365_train_challenge.txt").write_text("/b/beach/1.JPG 48\n/a/alley/00000001.jpg 4\n")
    assert check()["splits"]["train-standard"]["unlisted"] == []
    report = check(unlisted=True)
    assert list(report["splits"]) == ["train-standard", "train-challenge", "val"]
    # both training lists are of one image folder: what either names is listed
    assert files(report["splits"]["train-standard"], "unlisted") == ["stray.png", "a/airfield/99.jpg"]
    assert report["splits"]["train-challenge"]["unlisted"] == report["splits"]["val"]["unlisted"] == []
    assert report["problems"] == check()["problems"]  # they do no harm


def test_a_wrong_list_is_a_problem_and_the_others_are_checked(check, root):
    (root / "places365_train_standard.txt").write_text("/a/airfield/00000001.jpg 7\n")
    report = check()
    assert "line 1" in report["splits"]["train-standard"]["error"]
    assert report["splits"]["val"]["images"] == 2
    assert report["problems"] == 1
    assert "train-standard: " in format_report(report)


def test_an_image_folder_without_the_lists_files_is_a_problem(check, root):
    for name, _ in VAL:
        (root / "val_256" / name).unlink()
    report = check()
    assert "has none of the 2 files" in report["splits"]["val"]["error"]
    assert report["problems"] == 362 + 1


def test_class_folders(tmp_path):
    for name in ("train/kitchen/1.jpg", "train/attic/1.jpg", "train/attic/2.jpg", "val/attic/1.jpg"):
        put(tmp_path / "set" / name)
    report = check_root(tmp_path / "set", cache=tmp_path / "cache", unlisted=True)
    train, val = report["splits"]["train"], report["splits"]["val"]
    assert train["most"] == [["attic", 2], ["kitchen", 1]]
    assert train["unlisted"] == []
    assert val["without_images"] == ["kitchen"]
    assert report["problems"] == 0
    (tmp_path / "set" / "train" / "void").mkdir()
    report = check_root(tmp_path / "set", cache=tmp_path / "cache")
    assert report["splits"]["train"]["without_images"] == ["void"] and report["problems"] == 1


def class_folders(folder, *names):
    for name in names:
        put(folder / name)
    return folder


def checked(folder):
    report = check_root(folder, cache=folder.parent / "cache")
    return report["splits"]["train"], report["problems"], format_report(report)


def test_files_passed_over_are_told_of_and_are_a_problem_where_they_are_most(tmp_path):
    root = class_folders(tmp_path / "set", "train/a/1.jfif", "train/a/2.jpg", "train/b/1.jpg", "train/b/2.JPE")
    put(root / "train/a/3.txt")
    train, problems, text = checked(root)
    assert (train["images"], train["passed_over"], problems) == (4, {".txt": 1}, 0)
    assert "  files passed over: 1 .txt\n" in text and "warning" not in text
    class_folders(root, *(f"train/a/{number}.heic" for number in range(4)))
    train, problems, text = checked(root)
    assert (train["passed_over"], problems) == ({".txt": 1, ".heic": 4}, 0)
    assert "warning: passed over, as they are not read as pictures here: 4 .heic, 1 .txt\n" in text
    class_folders(root, "train/b/9.heic")
    _, problems, text = checked(root)
    assert problems == 1 and "5 .heic, 1 .txt; that is more than the 4 images taken" in text


def test_one_class_alone_is_a_problem(tmp_path):
    _, problems, text = checked(class_folders(tmp_path / "set", "train/a/1.jpg", "train/a/2.jpg"))
    assert problems == 1 and "warning: one class alone, a" in text


def test_images_in_no_class_folder_are_a_problem_but_for_those_to_predict_on(tmp_path):
    root = class_folders(
        tmp_path / "set", *(f"train/{name}.jpg" for name in ("a/1", "a/2", "b/1", "b/2")), "test/1.jpg", "test/2.jpg"
    )
    report = check_root(root, cache=tmp_path / "cache")
    assert report["problems"] == 0 and "2 images and no class folders" in report["not_found"]["test"]
    class_folders(root, "val/1.jpg", "val/2.jpg")
    report = check_root(root, cache=tmp_path / "cache")
    assert report["problems"] == 1 and "2 images and no class folders" in report["splits"]["val"]["error"]


def test_a_file_that_is_listed_twice_is_a_problem(check, root):
    before = check()["problems"]
    path = root / "places365_train_standard.txt"
    path.write_text(path.read_text() + f"/{TRAIN[0][0]} 0\n")
    report = check()
    assert files(report["splits"]["train-standard"], "twice") == [TRAIN[0][0]] and report["problems"] == before + 1


def test_a_report_can_be_printed_whatever_the_files_are_called(tmp_path):
    root = class_folders(tmp_path / os.fsdecode(b"s\xe9t"), *(f"train/{name}/{n}.jpg" for name in "ab" for n in "12"))
    put(root / "train" / "a" / os.fsdecode(b"caf\xe9\n.jpg"), b"")
    _, problems, text = checked(root)
    assert problems == 1 and r"1 empty (of 0 bytes): a/caf\xe9\n.jpg" in text
    text.encode("utf-8")


def test_nothing_to_check(tmp_path):
    with pytest.raises(UserError, match=r"has no split of Places365 and no class folders:(.|\n)*There is: nothing"):
        check_root(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        check_root(tmp_path / "absent")


@pytest.fixture
def tool(load_tool):
    loaded = load_tool("check_places365")
    return lambda *arguments: main_guard(lambda: loaded.main([str(one) for one in arguments]))


def test_exit_codes_and_report(tool, tmp_path, capsys):
    put(tmp_path / "set" / "train" / "kitchen" / "1.jpg")
    put(tmp_path / "set" / "train" / "attic" / "1.jpg")
    report = tmp_path / "new" / "report.json"
    options = ("--report", report, "--cache", tmp_path / "cache")
    assert tool(tmp_path / "set", *options) == 0
    assert "train: 2 images of 2 classes" in capsys.readouterr().out
    assert json.loads(report.read_text())["problems"] == 0
    put(tmp_path / "set" / "train" / "kitchen" / "2.jpg", b"")
    assert tool(tmp_path / "set", *options) == 1
    assert "1 problem;" in capsys.readouterr().out
    assert json.loads(report.read_text())["splits"]["train"]["empty"] == [{"file": "kitchen/2.jpg"}]
    report.unlink()
    assert tool(tmp_path / "nothing", *options) == 2
    assert "nothing does not exist" in capsys.readouterr().err
    assert not report.exists()


@pytest.fixture
def interrupted_reader(root, monkeypatch):
    """Of the four training files one is empty and one broken, and the reading of the last is interrupted."""
    put(root / "data_256" / TRAIN[0][0], b"")
    put(root / "data_256" / TRAIN[2][0], b"not an image")
    decode = module._decode

    def interrupted(index, position):
        if index.name(position) == TRAIN[3][0]:
            raise KeyboardInterrupt
        return decode(index, position)

    monkeypatch.setattr(module, "_decode", interrupted)


def test_an_interrupted_check_reports_what_it_found(tool, root, tmp_path, capsys, interrupted_reader):
    path = tmp_path / "report.json"
    assert tool(root, "--deep", "--threads", 1, "--report", path, "--cache", tmp_path / "cache") == 130
    report = json.loads(path.read_text())
    train, val = report["splits"]["train-standard"], report["splits"]["val"]
    assert not report["complete"] and (report["read"], report["files"]) == (3, 6)
    assert (train["read"], train["images"], val["read"], val["images"]) == (3, 4, 0, 2)
    assert files(train, "empty") == [TRAIN[0][0]] and files(train, "unreadable") == [TRAIN[2][0]]
    assert report["problems"] == 362 + 2
    text = capsys.readouterr().out
    assert "incomplete: interrupted after 3 of 6 files; 364 problems so far" in text
    assert "  3 of 4 files were read" in text and "every file was decoded" not in text
    assert f"written: {path}" in text


@pytest.mark.parametrize("part, read", [("_look", 0), ("_unlisted", 6)])
def test_a_check_may_be_interrupted_anywhere(check, monkeypatch, part, read):
    whole = check(unlisted=True)
    assert whole["complete"] and whole["read"] == whole["files"] == 6

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, part, interrupted)
    report = check(unlisted=True)
    assert not report["complete"] and (report["read"], report["files"]) == (read, 6)
    assert f"interrupted after {read} of 6 files" in format_report(report)


def test_a_termination_is_an_interruption(tool, root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_unlisted", lambda indices: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert tool(root, "--unlisted", "--report", tmp_path / "report.json", "--cache", tmp_path / "cache") == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not json.loads((tmp_path / "report.json").read_text())["complete"]


def test_the_real_command_line_writes_into_the_current_folder(tmp_path):
    put(tmp_path / "set" / "train" / "kitchen" / "1.jpg")
    put(tmp_path / "set" / "train" / "attic" / "1.jpg", b"")
    command = [sys.executable, str(TOOL), "set"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, env=environment)
    assert done.returncode == 1, done.stderr
    assert "written: places365_check.json" in done.stdout
    assert json.loads((tmp_path / "places365_check.json").read_text())["problems"] == 1
    usage = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert usage.returncode == 2


def test_archives_of_class_folders_are_checked(tmp_path):
    """Nested below letters, as Places365's own folders are, and with an empty and a broken image."""
    folder = tmp_path / "set"
    for name, _ in TRAIN:
        put(folder / "train" / name)
    put(folder / "train" / TRAIN[0][0], b"")
    put(folder / "train" / TRAIN[1][0], b"not an image")
    expected = check_root(folder, deep=True, cache=tmp_path / "cache")["splits"]["train"]
    for make in (make_zip, make_tar):
        path = make(folder, tmp_path / "archive")
        report = check_root(path, deep=True, cache=tmp_path / "cache", unlisted=True)
        train = report["splits"]["train"]
        assert files(train, "empty") == [TRAIN[0][0]] and files(train, "unreadable") == [TRAIN[1][0]]
        assert "desert/sand" in [name for name, _ in train["fewest"]]
        assert train | {"source": "", "image_root": "", "unreadable": []} == expected | {
            "source": "", "image_root": "", "unreadable": []
        }  # fmt: skip
        assert str(path) in format_report(report)
