#!/usr/bin/env python3
"""Make `import detectron2` work with this Python, without a compiler.

A Detectron2 that already imports is kept, whatever its version. Otherwise version 0.6 comes from the package
index that pip is configured for, as Python files without the compiled operations, which Faster R-CNN,
RetinaNet and Mask R-CNN do not need: downloaded, its SHA-256 compared before anything of it runs, built into
a wheel in a temporary folder, installed, imported. Run it with the Python of the environment that is to have
Detectron2.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
NAME, VERSION = "pb1-detectron2", "0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"

EPILOG = """\
with the compiled operations (rotated boxes, deformable convolutions on a GPU) and upstream's newest models:
  The compiled operations come with upstream's current main, built where it is used. That takes git, a C++
  compiler and, for a GPU, the CUDA toolkit of the version that torch.version.cuda names; then
      pip install "setuptools>=70.1" ninja
      pip install --no-build-isolation "git+https://github.com/facebookresearch/detectron2.git"
  This project runs on it unchanged, and this tool leaves it alone. Where pb1-detectron2 is installed, remove
  it first (pip uninstall pb1-detectron2): the two share one folder. Torch has to be installed before, and
  after a change of torch Detectron2 has to be built again.
"""

# Runs in the environment that is to have Detectron2; prints one JSON line.
PROBE = """\
import importlib.metadata as metadata, importlib.util, json
spec = importlib.util.find_spec("detectron2")
owners = metadata.packages_distributions().get("detectron2", []) if spec else []
where = (list(spec.submodule_search_locations or []) + [None])[0] if spec else None
print(json.dumps({"found": spec is not None, "owners": sorted(set(owners)), "where": where}))
"""

# The real proof: the parts this project stands on import, through the file that bridges the versions.
IMPORT_CHECK = """\
import json
from engine import compat
import detectron2.checkpoint, detectron2.config, detectron2.data, detectron2.engine, detectron2.evaluation
import detectron2.modeling, detectron2.structures, detectron2.utils.visualizer
print(json.dumps({"version": compat.detectron2_version(), "compiled": compat.has_compiled_ops(),
                  "where": detectron2.__path__[0]}))
"""

# Runs in the unpacked source: its own setup.py, minus what needs a compiler (its C++ sources are not even in
# the archive), minus requirements that cannot be met (a formatter pinned to a release of 2021, and what its
# removed Caffe2 export wanted), and minus its scripts, which would become a top-level package named tools.
BUILD = """\
import re, runpy, sys
import setuptools
DROPPED = {"black", "dataclasses", "future", "pydot"}
original = setuptools.setup
def setup(**options):
    options["ext_modules"] = []
    options["packages"] = [name for name in options["packages"] if name.split(".")[0] == "detectron2"]
    options["cmdclass"] = {k: v for k, v in options.get("cmdclass", {}).items() if k != "build_ext"}
    options["install_requires"] = [
        requirement for requirement in options.get("install_requires", [])
        if re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() not in DROPPED
    ]
    options.pop("extras_require", None)
    return original(**options)
setuptools.setup = setup
sys.path.insert(0, ".")
sys.argv = ["setup.py", "--quiet", "bdist_wheel", "--dist-dir", sys.argv[1]]
runpy.run_path("setup.py", run_name="__main__")
"""


class InstallError(Exception):
    """A step that failed, with what to do about it. (This file stands alone, without engine.errors.)"""


def say(message: str) -> None:
    print(f"detectron2: {message}", flush=True)


def run(arguments: list[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python with `arguments`, output captured, in an environment that builds no extensions."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CUDA_HOME", "CUDA_PATH", "PYTHONHOME")}
    environment["FORCE_CUDA"] = "0"  # its setup.py looks for a CUDA toolkit even when no extension is built
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd or ROOT, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip


def tail(result: subprocess.CompletedProcess[str], lines: int = 12) -> str:
    """The last lines of what a failed command said, indented."""
    text = "\n".join(part.strip() for part in (result.stdout, result.stderr) if part.strip())
    return textwrap.indent("\n".join(text.splitlines()[-lines:]) or "(no output)", "    ")


def last_json_line(text: str) -> dict | None:
    """Libraries print on import; the answer is the last line that is JSON."""
    for line in reversed(text.splitlines()):
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict):
            return answer
    return None


def probe() -> dict:
    """What is named detectron2: {"found": bool, "owners": [distribution names], "where": folder or None}."""
    result = run(["-c", PROBE])
    answer = last_json_line(result.stdout)
    if answer is None:
        raise InstallError(f"could not look for installed packages:\n{tail(result)}")
    return answer


def import_check() -> tuple[dict | None, str]:
    """Import Detectron2 in a fresh process: ({"version", "compiled", "where"}, "") or (None, the reason)."""
    result = run(["-c", IMPORT_CHECK])
    answer = last_json_line(result.stdout) if result.returncode == 0 else None
    return (answer, "") if answer else (None, tail(result))


def describe(state: dict) -> str:
    operations = "with compiled operations" if state["compiled"] else "without compiled operations"
    return f"version {state['version']}, {operations}, in {state['where']}"


def require_build_tools() -> None:
    """What the build takes from the environment, checked before anything is downloaded."""
    for module, advice in (
        ("pip", "make it available with: python -m ensurepip"),
        ("torch", "Detectron2 is built against PyTorch: install torch and torchvision first"),
        ("setuptools", 'install it with: pip install "setuptools>=70.1"'),
    ):
        if importlib.util.find_spec(module) is None:
            raise InstallError(f"{module} is missing from the Python that runs this ({sys.executable}); {advice}")
    if all(run(["-c", f"import {name}"]).returncode for name in ("setuptools.command.bdist_wheel", "wheel")):
        raise InstallError('this setuptools builds no wheels; update it: pip install -U "setuptools>=70.1"')


def download(folder: Path) -> Path:
    """Fetch the source archive by name from wherever pip is configured to look.

    With --require-hashes pip compares the SHA-256 of what it received before it runs the archive's setup.py
    for its metadata. Without isolation, because that setup.py imports torch.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    result = run(
        ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation",
         "--require-hashes", "--requirement", str(requirements), "--dest", str(folder / "download")]
    )  # fmt: skip
    archives = sorted((folder / "download").glob("*.tar.gz")) if result.returncode == 0 else []
    if len(archives) != 1:
        raise InstallError(
            f"pip could not download {NAME}=={VERSION}:\n{tail(result)}\n"
            "Check the network and pip's index setting (pip config list), then run this again. Or fetch the "
            "source archive elsewhere (pip download --no-deps …) and pass it with --archive FILE."
        )
    return archives[0]


def check_hash(archive: Path) -> None:
    try:
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
    except OSError as error:
        raise InstallError(f"cannot read {archive}: {error.strerror}") from error
    if found != SHA256:
        raise InstallError(
            f"{archive} is not the expected archive: SHA-256 {found}, expected {SHA256}. Nothing of it was run."
        )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack into `folder`, return the top folder. Links, devices and paths that lead outside are refused."""
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                raise InstallError(f"{archive.name} holds {member.name!r}, which does not belong in a source archive")
        if hasattr(tarfile, "data_filter"):  # Python 3.10.12 and 3.11.4 on; repeats the checks above and more
            tar.extractall(folder, filter="data")
        else:
            tar.extractall(folder)
    sources = [path.parent for path in folder.glob("*/setup.py")]
    if len(sources) != 1:
        raise InstallError(f"{archive.name} holds no setup.py where one was expected")
    return sources[0]


def build_wheel(source: Path, folder: Path) -> Path:
    result = run(["-c", BUILD, str(folder)], cwd=source)
    wheels = sorted(folder.glob("*.whl")) if result.returncode == 0 else []
    if len(wheels) != 1:
        raise InstallError(f"building the wheel failed:\n{tail(result, 25)}")
    return wheels[0]


def install_wheel(wheel: Path, others: list[str]) -> None:
    """Install `wheel` alone: what it requires comes with this project's `detection` extra."""
    if others:
        say(f"removing {', '.join(others)}")
        result = run(["-m", "pip", "uninstall", "--quiet", "--yes", *others])
        if result.returncode != 0:
            raise InstallError(f"pip could not remove {', '.join(others)}:\n{tail(result)}")
    # By name rather than by path: pip would record the temporary path, and `pip freeze` would repeat it.
    result = run(
        ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--find-links", str(wheel.parent),
         "--force-reinstall", f"{NAME}=={VERSION}"]
    )  # fmt: skip
    if result.returncode != 0:
        raise InstallError(f"pip could not install {wheel.name}:\n{tail(result)}")


def install(archive: Path | None, others: list[str]) -> dict:
    """Download (or take `archive`), check, build, install, import. Returns the import check's answer."""
    require_build_tools()
    with tempfile.TemporaryDirectory(prefix="detectron2-") as temporary:
        folder = Path(temporary)
        if archive is None:
            say(f"downloading the source archive of {NAME} {VERSION} (0.5 MB) …")
            archive = download(folder)
        check_hash(archive)
        say("SHA-256 is the expected one; building a wheel without the compiled operations (some seconds) …")
        wheel = build_wheel(unpack(archive, folder / "source"), folder / "wheel")
        say(f"installing {wheel.name} …")
        install_wheel(wheel, others)
    say("importing it …")
    state, reason = import_check()
    if state is None:
        raise InstallError(
            f"installed, but it does not import:\n{reason}\n"
            'Its requirements come with this project: pip install -e ".[detection]"'
        )
    return state


def ensure(*, force: bool, check_only: bool, archive: Path | None) -> int:
    """The whole decision: keep, install or refuse. Returns the exit code; raises InstallError."""
    found = probe()
    state, reason = import_check() if found["found"] else (None, "    not installed")
    if state is not None and not force:
        say(f"{'found' if check_only else 'keeping'} {describe(state)}")
        return 0
    if check_only:
        say(f"does not import:\n{reason}")
        return 1
    others = [owner for owner in found["owners"] if owner != NAME]
    if state is None and others and not force:
        raise InstallError(
            f"{', '.join(others)} is installed in {found['where']} but does not import:\n{reason}\n"
            "Repair it (after a change of PyTorch it has to be built again), or let version 0.6 without "
            "compiled operations take its place: python tools/install_detectron2.py --force"
        )
    if state is None and found["found"]:
        # An install that was cut off lies here without being registered; the new one overwrites it.
        say("what is installed does not import; installing it again")
    say(f"ready: {describe(install(archive, others))}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only say what is installed; exit 1 if it does not import")
    parser.add_argument("--force", action="store_true", help="install version 0.6 even over one that imports")
    parser.add_argument("--archive", type=Path, help=f"use this {NAME}-{VERSION}.tar.gz instead of downloading")
    options = parser.parse_args(arguments)
    try:
        return ensure(force=options.force, check_only=options.check, archive=options.archive)
    except InstallError as error:
        print(f"detectron2: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("detectron2: interrupted; run the same command again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
