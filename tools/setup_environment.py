#!/usr/bin/env python3
"""What `make setup` does: a .venv with the tested versions of everything. Standard library only.

Safe to call at any time. When nothing is to be done it says nothing and takes a moment. A stamp, written last
and keyed on a hash of what it was made from, tells whether set-up is complete; a call after an interrupted or
failed one goes on from what is there.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".setup-complete"
LOG = VENV / "setup.log"
MADE_FROM = (
    "tools/setup_environment.py",
    "tools/install_detectron2.py",
    "constraints.txt",
    "pyproject.toml",
    "setup.py",
)
EXTRAS = "detection,weights,export,pruning,dev"
SPACE_NEEDED_GB = 8.0  # PyTorch's CUDA build takes 5.5 of them

# Imported at the end of set-up in one process; before later calls it is only looked whether they are there.
MODULES = (
    "torch",
    "torchvision",
    "cv2",
    "pycocotools",
    "fvcore",
    "timm",
    "onnxruntime",
    "openvino",
    "pytest",
    "detectron2",
    "se_backbones",
)


class SetupError(Exception):
    """A step that failed, with what to do about it."""


def say(message: str) -> None:
    print(f"set-up: {message}", flush=True)


def key() -> str:
    """What a .venv is made from: these files, this folder (a venv cannot be moved), this kind of machine."""
    digest = hashlib.sha256(f"{ROOT}|{sys.platform}|{platform.machine()}".encode())
    for name in MADE_FROM:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def venv_python_works(code: str = "import sys; sys.exit(sys.version_info < (3, 10))") -> bool:
    try:
        return subprocess.run([PYTHON, "-c", code], capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def is_complete() -> bool:
    """The stamp's word is taken for the versions, not for what has been deleted since."""
    try:
        if STAMP.read_text(encoding="utf-8").strip() != key():
            return False
    except OSError:
        return False
    code = f"import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in {MODULES!r}))"
    return venv_python_works(code)


@contextlib.contextmanager
def only_one() -> Iterator[int | None]:
    """Hold a lock, so that two terminals do not install into one .venv. Yields the lock's file descriptor.

    pip gets the descriptor too: one that outlives its parent keeps the lock until it is done.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    with open(ROOT / ".venv.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is running in this folder; waiting for it …")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def run(title: str, arguments: list[str | Path], lock: int | None, *, advice: str) -> None:
    """Run a command with its output in the log, showing for how long it has been running.

    Raises SetupError with the last lines of the output and `advice` where it fails.
    """
    say(f"{title} …")
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH", "PIP_REQUIRE_VIRTUALENV")
    }
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    started = time.monotonic()
    with open(LOG, "ab") as log:
        log.write(f"\n$ {' '.join(map(str, arguments))}\n".encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            [str(argument) for argument in arguments], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, pass_fds=() if lock is None else (lock,),
        )  # fmt: skip
        try:
            wait(process, started)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        with open(LOG, "rb") as log:
            log.seek(start)
            output = log.read().decode(errors="replace").strip().splitlines()
        lines = [line for line in output if not line.startswith("WARNING:")][-15:]
        if any("Retrying (" in line for line in output):  # pip's own conclusion is misleading then
            advice = f"pip's package index did not answer. {advice}"
        shown = "\n".join(f"    {line}" for line in lines) or "    (no output)"
        raise SetupError(
            f"this failed: {title}\n{shown}\n{advice}\n"
            f"Then run the same command again: it goes on from here. All output: {LOG.relative_to(ROOT)}"
        )


def wait(process: subprocess.Popen, started: float) -> None:
    """Wait for the process; a terminal shows the seconds running, a log gets a line a minute."""
    terminal = sys.stdout.isatty()
    interval = 1 if terminal else 60
    while True:
        try:
            process.wait(timeout=interval)
            break
        except subprocess.TimeoutExpired:
            seconds = f"{time.monotonic() - started:.0f} s"
            if terminal:
                print(f"\r        {seconds} ", end="", flush=True)
            else:
                say(f"    … {seconds}")
    if terminal:
        print("\r" + " " * 20 + "\r", end="", flush=True)


def make_venv() -> None:
    """Create .venv, or create it again where its Python or its pip does not run."""
    if venv_python_works("import sys, pip; sys.exit(sys.version_info < (3, 10))"):
        return
    if VENV.is_symlink() or VENV.exists():
        say(".venv does not work (cut off while it was made, or its Python is gone); making it again")
        VENV.unlink() if VENV.is_symlink() else shutil.rmtree(VENV)
    say(f"creating .venv with Python {platform.python_version()} (a few seconds) …")
    result = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True)
    if result.returncode != 0:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError(
            f"{sys.executable} -m venv failed:\n    {(result.stderr or result.stdout).strip()}\n"
            "Install the venv module of your Python (Debian and Ubuntu: python3-venv), or name another "
            "Python: make setup PYTHON=/path/to/python3.11"
        )


def site_packages() -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def broken_installs(packages: Path) -> list[Path]:
    """The .dist-info folders whose package is not whole: pip was killed while it wrote or removed it.

    pip takes a package with such a folder for installed and would leave it as it is.
    """
    broken = []
    for info in sorted(packages.glob("*.dist-info")):
        try:
            with open(info / "RECORD", newline="", encoding="utf-8") as record:
                rows = [row for row in csv.reader(record) if len(row) == 3]
            whole = (info / "METADATA").is_file() and all(
                not size or (packages / name).stat().st_size == int(size) for name, _, size in rows
            )
        except OSError:
            whole = False
        if not whole:
            broken.append(info)
    return broken


def remove_leftovers() -> None:
    """Make pip see half-installed packages as missing, and drop what a killed uninstall had set aside."""
    packages = site_packages()
    for info in broken_installs(packages):
        say(f"{info.name.removesuffix('.dist-info')} was left half installed; it will be installed again")
        if info.name.startswith("pb1_detectron2-"):  # its installer keeps what imports, registered or not
            shutil.rmtree(packages / "detectron2", ignore_errors=True)
        shutil.rmtree(info)
    for path in packages.glob("~*"):
        shutil.rmtree(path, ignore_errors=True)


def check_space() -> None:
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < SPACE_NEEDED_GB and not venv_python_works("import torch"):
        say(f"warning: {free:.1f} GB are free on this disk; set-up needs up to {SPACE_NEEDED_GB:.0f} GB")


def pinned(*names: str) -> list[str]:
    """The lock's lines for these packages."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.partition("==")[0] in names]


def install(lock: int | None) -> None:
    pip = [PYTHON, "-m", "pip", "install", "--constraint", "constraints.txt"]
    free = shutil.disk_usage(ROOT).free / 1e9
    advice = (
        "Check the network, pip's index setting (.venv/bin/python -m pip config list) and the disk "
        f"({free:.1f} GB free)."
    )
    pytorch = [*pip, *pinned("torch", "torchvision")]
    # Source packages are built with the lock's setuptools: in isolation pip would take whatever is newest.
    everything = [*pip, "--no-build-isolation", "--use-pep517", "--editable", f".[{EXTRAS}]"]
    imports = "; ".join(f"import {module}" for module in MODULES if module != "detectron2")
    run("installing the build tools (seconds)", [*pip, *pinned("setuptools")], lock, advice=advice)
    run("installing PyTorch (one to several minutes, up to 3 GB to download)", pytorch, lock, advice=advice)
    run("installing OpenCV, pycocotools and the others (about a minute)", everything, lock, advice=advice)
    run("installing Detectron2 (about 20 seconds)", [PYTHON, "tools/install_detectron2.py"], lock, advice="")
    advice = "If a system library is missing (lib….so), install it; otherwise start afresh with: make clean"
    run("checking that everything imports", [PYTHON, "-c", imports], lock, advice=advice)


def write_stamp() -> None:
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(key() + "\n", encoding="utf-8")
    os.replace(temporary, STAMP)


def set_up() -> None:
    if is_complete():
        return
    with only_one() as lock:
        if is_complete():  # the one we waited for has done it
            return
        started = time.monotonic()
        make_venv()
        STAMP.unlink(missing_ok=True)
        check_space()
        remove_leftovers()
        install(lock)
        write_stamp()
        say(f"complete after {time.monotonic() - started:.0f} s; later calls skip all this")


def main() -> int:
    # make and a closing terminal send these; as an exception the running pip is stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        set_up()
    except (SetupError, OSError) as error:
        print(f"set-up: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run the same command again, it goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
