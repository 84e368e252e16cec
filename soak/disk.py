"""A disk that fills while work is done on it: a small file system in memory, of a size drawn at random."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from soak.pool import Outcome, Trial, last_traceback, spread
from soak.processes import adopt_orphans, end_all
from soak.runs import ROOT, Data, Running, Variant, difference, torn, uninterrupted

_ROOM = 2**28  # bytes, more than any work here takes
_NEW_NAMESPACES = 0x00020000 | 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER; linux/sched.h
_REMOUNT, _PRIVATE = 32, 16384 | (1 << 18)  # MS_REMOUNT; MS_REC and MS_PRIVATE; linux/mount.h


@dataclass(frozen=True)
class Work:
    """Something that writes.

    Attributes:
        name: for the report.
        tool: the command's file.
        words: folder to write to → the command's words.
        again: what is added where it is done once more in the same folder.
        whole: what it leaves where nothing disturbs it.
        wrong: (folder, that of ``whole``) → in what they differ; empty where in nothing.
    """

    name: str
    tool: str
    words: Callable[[Path], list[str]]
    again: tuple[str, ...]
    whole: Callable[[], Path]
    wrong: Callable[[Path, Path], str]


def prepare_disk(folder: Path) -> Trial:
    """Trials of training, prediction and conversion, of both tasks."""
    data = Data(folder.parent / "runs")
    works = _works(data)

    def trial(seed: int, place: Path) -> Outcome:
        adopt_orphans()
        work = works[seed % len(works)]
        whole = work.whole()
        theirs, ours = get_context("fork").Pipe()
        process = get_context("fork").Process(target=_in_small_disk, args=(work, seed, whole, place, ours))
        process.start()  # a process of its own: what it mounts is gone when it ends
        ours.close()
        try:
            return theirs.recv()
        finally:
            process.join()
            end_all()

    return trial


def _works(data: Data) -> list[Work]:
    return [
        make(data, Variant(task), *more)
        for make, *more in ((_training,), (_prediction,), (_conversion, "safetensors"), (_conversion, "pth"))
        for task in ("classification", "detection")
    ]


def _training(data: Data, variant: Variant) -> Work:
    def words(folder: Path) -> list[str]:
        return data.words(variant, folder)

    def whole() -> Path:
        return uninterrupted(data, variant).run

    return Work(f"{variant.task}, training", variant.tool, words, ("--resume",), whole, difference)


def _prediction(data: Data, variant: Variant) -> Work:
    scenes = variant.task == "classification"
    tool = str(ROOT / "tools" / ("predict_image.py" if scenes else "predict.py"))
    pictures = data.folder / ("scenes/val" if scenes else "shapes/val")

    def words(folder: Path) -> list[str]:
        found = ["--weights", _trained(data, variant), "--device", "cpu", str(pictures), "--output", str(folder)]
        return found if scenes else [*found, "--threshold", "0"]

    return _undisturbed(data, f"{variant.task}, prediction", tool, words)


def _conversion(data: Data, variant: Variant, suffix: str) -> Work:
    def words(folder: Path) -> list[str]:
        return [_trained(data, variant), str(folder / f"weights.{suffix}"), "--force"]

    tool = str(ROOT / "tools" / "convert_weights.py")
    return _undisturbed(data, f"{variant.task}, conversion to {suffix}", tool, words)


def _trained(data: Data, variant: Variant) -> str:
    return str(uninterrupted(data, variant).run / "model_final.pth")


def _undisturbed(data: Data, name: str, tool: str, words: Callable[[Path], list[str]]) -> Work:
    """Work that is done anew where it was interrupted; once, on a disk with room, for all trials to compare with."""

    def whole() -> Path:
        folder = data.folder / name
        making = folder.with_name(f"{name} {os.getpid()}")
        if not folder.is_dir():
            making.mkdir()
            running = Running(tool, words(making / "done"), making / "log.txt")
            if (codes := running.wait()) is None or any(codes):
                raise RuntimeError(f"{name} ended with {codes}:\n{running.text[-1500:]}")
            try:
                making.rename(folder)
            except OSError:  # another process was faster
                shutil.rmtree(making)
        return folder / "done"

    return Work(name, tool, words, (), whole, _files)


def _in_small_disk(work: Work, seed: int, whole: Path, place: Path, connection) -> None:
    try:
        outcome = _fill(work, seed, whole, place)
    except Exception:
        outcome = Outcome(work.name, "traceback", last_traceback())
    connection.send(outcome)


def _fill(work: Work, seed: int, whole: Path, place: Path) -> Outcome:
    disk, out = place / "disk", place / "disk" / "out"
    disk.mkdir()
    sizes = [path.stat().st_blocks * 512 for path in whole.rglob("*")]
    needed = sum(sizes) + max(sizes) + 2**16  # a file is written beside the one that it replaces
    size = int(needed * spread(seed) ** 2)  # most writes are small ones, at the beginning
    small = _mount(disk, max(size, 4096))
    if not small:  # not allowed here: then no file may be larger than that
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    running = Running(work.tool, work.words(out), place / "log.txt")
    codes = running.wait()

    def outcome(result: str, fault: str = "") -> Outcome:
        full = f"\na disk of {size} bytes, exit codes {codes}:\n{running.text[-1500:]}"
        return Outcome(work.name + ("" if small else ", file size"), result, fault and fault + full)

    if codes is None:
        return outcome("hang", "no end")
    if codes == [2] and "error:" not in running.text:
        return outcome("stopped", "no message")
    if codes not in ([0], [2]):
        return outcome("failed", "an exit code that is neither 0 nor 2")
    if "Traceback" in running.text:
        return outcome("stopped" if any(codes) else "done", "a traceback")
    if fault := torn(out) if out.is_dir() else "":
        return outcome("torn", fault)
    if small:
        _mount(disk, _ROOM, again=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = Running(work.tool, [*work.words(out), *work.again], place / "again.txt")
    again_codes = again.wait()
    if again_codes != [0]:
        return outcome("not to be repeated", f"with room, exit codes {again_codes}:\n{again.text[-1500:]}")
    return outcome("done at once" if codes == [0] else "stopped, then equal", work.wrong(out, whole))


def _files(folder: Path, whole: Path) -> str:
    """The JSON and weights files of a prediction or a conversion, compared."""
    for path in whole.rglob("*"):
        other = folder / path.relative_to(whole)
        if not other.exists():
            return f"{path.name} is missing"
        if path.suffix == ".json" and json.loads(path.read_text()) != json.loads(other.read_text()):
            return f"{path.name} differs"
        if path.suffix in (".safetensors", ".jpg", ".png") and path.read_bytes() != other.read_bytes():
            return f"{path.name} differs"
    return ""


def _mount(folder: Path, size: int, again: bool = False) -> bool:
    """Puts a file system of ``size`` bytes at a folder, for this process and those that it starts; or changes its size.
    Returns False where that is not allowed."""
    library = ctypes.CDLL(None, use_errno=True)
    if not again:
        user, group = os.getuid(), os.getgid()
        if library.unshare(_NEW_NAMESPACES):
            return False
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
        if library.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None):
            return False
    flags, options = ctypes.c_ulong(_REMOUNT if again else 0), f"size={size}".encode()
    if library.mount(b"small", os.fsencode(folder), b"tmpfs", flags, options):
        if again:
            raise OSError(ctypes.get_errno(), "the small file system cannot be made larger")
        return False
    return True
