"""Outputs are whole or not there, and what is no plain file is written into."""

import errno
import os
import stat
import threading

import numpy as np
import pytest
import safetensors.torch
import torch

from se_backbones.files import atomic_path, naming, probe_disk, write_atomically
from tests.full_disk import largest_file


def test_writing_makes_folders_and_leaves_nothing_else(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.txt", "grün")
    assert path.read_text(encoding="utf-8") == "grün"
    assert write_atomically(path, b"\x00").read_bytes() == b"\x00"
    assert os.listdir(path.parent) == ["b.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interruption_keeps_the_old_file(tmp_path, error):
    path = write_atomically(tmp_path / "a.txt", "old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("stem", ["x" * 240, "図" * 80, "caf\udce9"])
def test_the_temporary_file_keeps_the_suffix_and_hides(tmp_path, stem):
    with atomic_path(tmp_path / f"{stem}.png") as temporary:
        assert temporary.suffix == ".png" and temporary.name.startswith(".") and temporary.name.isascii()
        temporary.write_bytes(b"1")
    assert os.listdir(tmp_path) == [f"{stem}.png"]


NUMBERS = {"a": torch.zeros(3, 40, 100), "b": torch.zeros(5)}
WRITERS = {
    "bytes": lambda path: path.write_bytes(bytes(50_000)),
    "torch": lambda path: torch.save(NUMBERS, path),
    "safetensors": lambda path: safetensors.torch.save_file(NUMBERS, str(path)),
    "numpy": lambda path: np.save(path, np.zeros(50_000)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_said_whatever_the_writer_says(tmp_path, writer):
    """torch.save says "unexpected pos", safetensors "Error while serializing", NumPy how much it has written."""
    path = write_atomically(tmp_path / "old.npy", "old")
    with largest_file(10_000):
        with pytest.raises(OSError) as raised, atomic_path(path) as temporary:
            WRITERS[writer](temporary)
    assert raised.value.errno == errno.EFBIG and raised.value.filename == str(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["old.npy"]


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="^a bug$"), atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"1")
        raise RuntimeError("a bug")
    assert os.listdir(tmp_path) == []


def test_a_disk_is_asked_without_a_change_to_the_file(tmp_path):
    path = write_atomically(tmp_path / "a", b"1234")
    probe_disk(path)
    with largest_file(10_000), pytest.raises(OSError) as raised:
        probe_disk(path)
    assert raised.value.errno == errno.EFBIG and path.read_bytes() == b"1234"


def test_an_error_names_the_path_it_is_about(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder.*a'") as raised:
        (tmp_path / "a").mkdir()
        write_atomically(tmp_path / "a", "")
    assert raised.value.filename == str(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as raised:
        write_atomically(tmp_path / "file" / "deep" / "b", "")
    assert raised.value.filename == str(tmp_path / "file" / "deep" / "b")
    with pytest.raises(OSError) as raised:
        write_atomically(tmp_path / ("x" * 300), "")
    assert raised.value.errno == errno.ENAMETOOLONG and raised.value.filename == str(tmp_path / ("x" * 300))
    with pytest.raises(OSError, match="own words$"), naming("path"):
        raise OSError("own words")


def test_links_stay_and_lead_to_what_is_written(tmp_path):
    target = write_atomically(tmp_path / "there" / "target", "old")
    (tmp_path / "link").symlink_to("there/target")
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    (tmp_path / "dangling").symlink_to("new/target")
    for name, place in {"link": target, "chain": target, "dangling": tmp_path / "new" / "target"}.items():
        assert write_atomically(tmp_path / name, name) == tmp_path / name
        assert (tmp_path / name).is_symlink() and not place.is_symlink() and place.read_text() == name
        assert os.listdir(place.parent) == ["target"]
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError) as raised:
        write_atomically(tmp_path / "one", "")
    assert raised.value.errno == errno.ELOOP and raised.value.filename == str(tmp_path / "one")


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    path = write_atomically(tmp_path / "a", "old")
    path.chmod(0o640)
    write_atomically(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    before = os.umask(0o027)
    try:
        assert stat.S_IMODE(write_atomically(tmp_path / "b", "new").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_a_file_that_may_not_be_written_is_left_alone(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "a", "old")
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # root may write to any
    with pytest.raises(PermissionError):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_a_mounted_file_is_written_into(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "a", "old")

    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    write_atomically(path, "new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("through", ["itself", "a link"])
def test_a_pipe_is_written_into(tmp_path, through):
    pipe = place = tmp_path / "pipe"
    os.mkfifo(pipe)
    if through == "a link":
        place = tmp_path / "link"
        place.symlink_to("pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(place, "all of it")
    reader.join(timeout=10)
    assert read == [b"all of it"] and stat.S_ISFIFO(pipe.stat().st_mode) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["/dev/null", "/dev/full"])
def test_a_device_stays_one(tmp_path, name):
    (tmp_path / "link").symlink_to(name)
    for path in (name, tmp_path / "link"):
        if name == "/dev/null":
            write_atomically(path, "gone")
        else:
            with pytest.raises(OSError) as raised:
                write_atomically(path, "no room")
            assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(path)
    assert stat.S_ISCHR(os.stat(name).st_mode) and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_an_open_file_is_gone_on_with(tmp_path, form):
    """As the shell's `> file` with /dev/stdout: replaced, or opened anew, the file would lose what else is printed."""
    with open(tmp_path / "log", "wb") as file:
        file.write(b"before, ")
        file.flush()
        write_atomically(form.format(file.fileno()), b"it, ")
        file.write(b"after")
    assert (tmp_path / "log").read_bytes() == b"before, it, after"
    assert os.listdir(tmp_path) == ["log"]
