"""The Detectron2 installer's decisions and guards, without the network and without changing anything here."""

import importlib.util
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "install_detectron2.py"
WORKING = {"version": "9.9", "compiled": True, "where": "/somewhere/detectron2"}


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("install_detectron2", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(tool, monkeypatch):
    """A function that pretends what is installed, and a list that fills with what would be installed."""
    installs = []

    def pretend(*, owners=(), works=False, found=True):
        state = {"found": found, "owners": list(owners), "where": "/somewhere/detectron2" if found else None}
        answer = (WORKING, "") if works else (None, "    ImportError: no module named _C")
        monkeypatch.setattr(tool, "probe", lambda: state)
        monkeypatch.setattr(tool, "import_check", lambda: answer)

    def install(archive, others):
        installs.append((archive, others))
        return WORKING

    monkeypatch.setattr(tool, "install", install)
    return pretend, installs


def test_the_installed_one_is_found():
    result = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "found version" in result.stdout and "compiled operations" in result.stdout


@pytest.mark.parametrize("owner", ["detectron2", "pb1-detectron2"])
def test_one_that_imports_is_kept_whatever_it_is(tool, environment, capsys, owner):
    pretend, installs = environment
    pretend(owners=[owner], works=True)
    assert tool.main([]) == 0 and installs == []
    assert "keeping version 9.9, with compiled operations" in capsys.readouterr().out


def test_a_missing_one_is_installed(tool, environment):
    pretend, installs = environment
    pretend(found=False)
    assert tool.main(["--check"]) == 1 and installs == []
    assert tool.main([]) == 0 and installs == [(None, [])]


@pytest.mark.parametrize("owners", [[], ["pb1-detectron2"]], ids=["cut off before it was registered", "ours"])
def test_what_an_interruption_left_is_installed_again(tool, environment, owners):
    pretend, installs = environment
    pretend(owners=owners)
    assert tool.main([]) == 0 and installs == [(None, [])]


def test_somebody_elses_broken_build_is_not_replaced_unasked(tool, environment, capsys):
    pretend, installs = environment
    pretend(owners=["detectron2"])
    assert tool.main([]) == 1 and installs == []
    message = capsys.readouterr().err
    assert "no module named _C" in message and "--force" in message
    assert tool.main(["--force"]) == 0 and installs == [(None, ["detectron2"])]


def test_a_wrong_archive_is_refused_before_anything_of_it_runs(tool, tmp_path, monkeypatch, capsys):
    archive = tmp_path / "pb1-detectron2-0.6.tar.gz"
    archive.write_bytes(b"something else")
    for step in ("unpack", "build_wheel", "install_wheel", "download"):
        monkeypatch.setattr(tool, step, lambda *_: pytest.fail("went on after a wrong hash"))
    monkeypatch.setattr(tool, "probe", lambda: {"found": False, "owners": [], "where": None})
    assert tool.main(["--archive", str(archive)]) == 1
    assert "not the expected archive" in capsys.readouterr().err
    assert tool.main(["--archive", str(tmp_path / "missing.tar.gz")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_pip_is_told_the_hash_and_no_index(tool, tmp_path, monkeypatch):
    calls = []

    def run(arguments, **_):
        calls.append(arguments)
        requirements = Path(arguments[arguments.index("--requirement") + 1])
        assert requirements.read_text() == f"pb1-detectron2==0.6 --hash=sha256:{tool.SHA256}\n"
        (tmp_path / "download").mkdir()
        (tmp_path / "download" / "pb1-detectron2-0.6.tar.gz").touch()
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(tool, "run", run)
    assert tool.download(tmp_path).name == "pb1-detectron2-0.6.tar.gz"
    assert "--require-hashes" in calls[0]
    assert not any("index" in argument or "://" in argument for argument in calls[0])


def test_a_failed_download_says_what_to_do(tool, tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(tool, "run", lambda *_, **__: failed)
    with pytest.raises(tool.InstallError, match="(?s)No matching distribution.*network.*--archive"):
        tool.download(tmp_path)


def archive_of(path: Path, *members: tarfile.TarInfo, **files: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"source-1/{name}.py")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for member in members:
            tar.addfile(member)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside.py"),
        member("/tmp/absolute.py"),
        member("source-1/link", tarfile.SYMTYPE, "/etc"),
        member("source-1/hard", tarfile.LNKTYPE, "/etc/hostname"),
        member("source-1/fifo", tarfile.FIFOTYPE),
    ],
    ids=lambda info: info.name,
)
def test_members_that_lead_outside_are_refused(tool, tmp_path, bad):
    archive = archive_of(tmp_path / "a.tar.gz", bad, setup="")
    with pytest.raises(tool.InstallError, match="does not belong"):
        tool.unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


SETUP_WITH_EXTENSION = """
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
class Fails(build_ext):
    def run(self):
        raise SystemExit("a compiler was asked for")
setup(name="pb1-detectron2", version="0.6", packages=find_packages(),
      install_requires=["black==21.4b2", "future", "dataclasses; python_version<'3.7'",
                        "yacs>=0.1.8", "omegaconf>=2.1"],
      extras_require={"all": ["shapely"]},
      ext_modules=[Extension("detectron2._C", ["missing.cpp"])], cmdclass={"build_ext": Fails})
"""


def test_the_wheel_is_built_without_compiler_scripts_and_unmeetable_requirements(tool, tmp_path):
    archive = archive_of(
        tmp_path / "a.tar.gz",
        setup=SETUP_WITH_EXTENSION,
        **{"detectron2/__init__": "", "detectron2/layers/__init__": "", "tools/__init__": ""},
    )
    wheel = tool.build_wheel(tool.unpack(archive, tmp_path / "source"), tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        metadata = content.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "none-any" in wheel.name
    assert {"detectron2/__init__.py", "detectron2/layers/__init__.py"} <= set(names)
    assert not any(name.startswith("tools/") or name.endswith(".so") for name in names)
    required = {line.split()[1] for line in metadata.splitlines() if line.startswith("Requires-Dist")}
    assert required == {"yacs>=0.1.8", "omegaconf>=2.1"}


def test_nothing_is_installed_where_the_build_fails(tool, tmp_path, monkeypatch, capsys):
    archive = archive_of(tmp_path / "a.tar.gz", setup="raise SystemExit('this setup.py fails')")
    monkeypatch.setattr(tool, "check_hash", lambda _: None)
    monkeypatch.setattr(tool, "probe", lambda: {"found": True, "owners": ["detectron2"], "where": "/somewhere"})
    monkeypatch.setattr(tool, "import_check", lambda: (None, "    broken"))
    monkeypatch.setattr(tool, "install_wheel", lambda *_: pytest.fail("replaced something after a failed build"))
    assert tool.main(["--force", "--archive", str(archive)]) == 1
    assert "this setup.py fails" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [('noise\n{"a": 1}\nmore noise\n', {"a": 1}), ("1\n[2]\n", None), ("", None)],
)
def test_the_answer_is_found_among_what_libraries_print(tool, text, expected):
    assert tool.last_json_line(text) == expected
