"""Set-up: when it runs again, what it repairs, and that the lock and pyproject.toml agree."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

try:
    import tomllib
except ImportError:  # Python 3.10; pytest needs tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The set-up program, working on a folder of its own."""
    path = ROOT / "tools" / "setup_environment.py"
    spec = importlib.util.spec_from_file_location("setup_environment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in module.MADE_FROM:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / ".setup-complete")
    monkeypatch.setattr(module, "LOG", tmp_path / ".venv" / "setup.log")
    monkeypatch.setattr(module, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(module, "MODULES", ("json",))
    (tmp_path / ".venv").mkdir()
    return module


def test_the_stamp_holds_until_something_it_was_made_from_changes(tool):
    assert not tool.is_complete()
    tool.write_stamp()
    assert tool.is_complete()
    (tool.ROOT / "constraints.txt").write_text("numpy==1")
    assert not tool.is_complete()


def test_the_stamp_is_not_believed_where_the_python_or_a_package_is_gone(tool, monkeypatch):
    tool.write_stamp()
    monkeypatch.setattr(tool, "MODULES", ("json", "package_that_is_not_there"))
    assert not tool.is_complete()
    monkeypatch.setattr(tool, "MODULES", ("json",))
    monkeypatch.setattr(tool, "PYTHON", tool.VENV / "bin" / "python")
    assert not tool.is_complete()


def test_a_complete_setup_is_silent_and_an_incomplete_one_stamps_last(tool, monkeypatch, capfd):
    steps = []

    def install(lock):
        steps.append(tool.STAMP.exists())

    monkeypatch.setattr(tool, "install", install)
    monkeypatch.setattr(tool, "make_venv", lambda: None)
    monkeypatch.setattr(tool, "remove_leftovers", lambda: None)
    tool.set_up()
    assert steps == [False] and tool.is_complete()
    capfd.readouterr()
    tool.set_up()
    assert steps == [False] and capfd.readouterr() == ("", "")


def test_a_failed_step_leaves_no_stamp(tool, monkeypatch, capsys):
    def install(lock):
        tool.run(
            "trying",
            [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"],
            lock,
            advice="Do this.",
        )

    monkeypatch.setattr(tool, "install", install)
    monkeypatch.setattr(tool, "make_venv", lambda: None)
    monkeypatch.setattr(tool, "remove_leftovers", lambda: None)
    monkeypatch.setattr(tool.signal, "signal", lambda number, handler: None)
    assert tool.main() == 1
    message = capsys.readouterr().err
    assert "trying" in message and "the reason" in message and "Do this." in message
    assert not tool.is_complete()


def package(site: Path, name: str) -> Path:
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text("value = 1\n")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: x\n")
    rows = [f"{name}/__init__.py,sha256=x,10", f"{info.name}/METADATA,sha256=x,8", f"{info.name}/RECORD,,"]
    (info / "RECORD").write_text("\n".join(rows) + "\n")
    return info


def test_packages_that_are_not_whole_are_found(tool, tmp_path):
    site = tmp_path / "site"
    package(site, "whole")
    no_record, cut_short, missing = (package(site, name) for name in ("no_record", "cut_short", "missing"))
    (no_record / "RECORD").unlink()
    (site / "cut_short" / "__init__.py").write_text("val")
    (site / "missing" / "__init__.py").unlink()
    assert set(tool.broken_installs(site)) == {no_record, cut_short, missing}


def test_leftovers_go_before_pip_looks(tool, tmp_path, monkeypatch):
    site = tmp_path / "site"
    whole, cut_short = package(site, "whole"), package(site, "cut_short")
    (cut_short / "RECORD").unlink()
    detectron2 = package(site, "pb1_detectron2")
    (detectron2 / "RECORD").unlink()
    for folder in ("detectron2", "~orch"):
        (site / folder).mkdir()
    monkeypatch.setattr(tool, "site_packages", lambda: site)
    tool.remove_leftovers()
    assert whole.exists() and not cut_short.exists()
    assert not detectron2.exists() and not (site / "detectron2").exists() and not (site / "~orch").exists()


def test_a_venv_that_does_not_run_is_made_again(tool, monkeypatch):
    monkeypatch.setattr(tool, "PYTHON", tool.VENV / "bin" / "python")
    (tool.VENV / "pyvenv.cfg").write_text("home = /gone\n")
    (tool.VENV / "left.txt").write_text("left")
    tool.make_venv()
    assert tool.venv_python_works("import pip") and not (tool.VENV / "left.txt").exists()


def test_no_python_is_named_with_what_to_do(tmp_path):
    for command in ("make", "sh"):
        found = next(Path(p) / command for p in os.environ["PATH"].split(os.pathsep) if (Path(p) / command).exists())
        (tmp_path / command).symlink_to(found)
    result = subprocess.run(
        ["make", "-C", ROOT, "setup", "PYTHON=no-such-python"], capture_output=True, text=True,
        env={"PATH": str(tmp_path)}, timeout=60,
    )  # fmt: skip
    assert result.returncode != 0 and "PYTHON=/path/to/python3.11" in result.stderr


def lock_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_lock_holds_exact_versions_and_nothing_else():
    for line in lock_lines():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*(; python_version >= \"3\.11\")?", line), line
    names = [line.partition("==")[0] for line in lock_lines()]
    assert names == sorted(set(names))


def test_every_requirement_has_its_tested_version_in_the_lock(tool):
    locked = {canonicalize_name(r.name): r for r in map(Requirement, lock_lines())}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(tool.EXTRAS.split(",")) <= extras.keys()
    requirements = [Requirement(line) for lines in (project["dependencies"], *extras.values()) for line in lines]
    assert {"torch", "torchvision", "pycocotools", "timm", "pytest"} <= {r.name for r in requirements}
    for requirement in requirements:
        version = next(iter(locked[canonicalize_name(requirement.name)].specifier)).version
        assert requirement.specifier.contains(version), f"{requirement} does not allow the locked {version}"
