"""What is installed: every file that the code reads, commands that run, and one place for each fact."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

try:
    import tomllib
except ImportError:  # Python 3.10; pytest needs tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = PROJECT["scripts"]
# For work on this project itself: no command of an installed package.
NOT_INSTALLED_AS_COMMANDS = ("__init__", "console", "setup_environment", "acceptance", "benchmark", "model_zoo", "soak")


# Asks setuptools' command that copies packages what it would copy. In a process of its own, for setuptools brings
# another distutils along.
ASK = """
import json, setuptools, distutils.core
distribution = distutils.core.run_setup("setup.py", stop_after="config")
command = distribution.get_command_obj("build_py")
command.ensure_finalized()
print(json.dumps({
    "version": distribution.get_version(),
    "packages": distribution.packages,
    "modules": [module[2] for module in command.find_all_modules()],
    "data": [f"{folder}/{name}" for _, folder, _, names in command.data_files for name in names],
}))
"""


@pytest.fixture(scope="module")
def build():
    """What goes into a wheel, with the paths it has here: version, packages, modules, data."""
    done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def folders() -> list[str]:
    """The top-level packages that are installed, as their folders are named."""
    return sorted(
        path.parent.name
        for path in ROOT.glob("*/__init__.py")
        if path.parent.name not in ("tests", "soak", "benchmarks")
    )


def files(folder: str) -> set[str]:
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(ROOT).as_posix() for path in paths if not path.name.startswith(".")}


def test_every_module_and_every_file_beside_them_is_installed(build):
    modules, data = ({os.path.normpath(path) for path in build[kind]} for kind in ("modules", "data"))
    assert {"se_backbones", "engine", "detection", "classification", "places365", "synthetic"} < set(folders())
    there = set().union(*map(files, folders()))
    assert {path for path in there if path.endswith(".py")} == modules
    assert {path for path in there if not path.endswith(".py")} | files("configs") == data
    assert {"places365/categories365.txt", "studies/paper_tables.json", "configs/demo.yaml"} <= data


def test_nothing_is_installed_under_a_name_that_anybody_may_use(build):
    top = {package.split(".")[0] for package in build["packages"]}
    assert not top & {"tools", "tests", "configs", "docs", "results", "soak", "benchmarks"}


@pytest.mark.parametrize("room", [name for name in folders() if name != "tools"])
def test_every_room_says_that_its_types_can_be_read(room):
    assert (ROOT / room / "py.typed").is_file()


@pytest.fixture
def se_tools(monkeypatch):
    """tools/ under its installed name."""
    folder = ROOT / "tools"
    spec = importlib.util.spec_from_file_location(
        "se_tools", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    for name in [name for name in sys.modules if name.split(".")[0] == "se_tools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "se_tools", package)
    spec.loader.exec_module(package)
    yield package
    for name in [name for name in sys.modules if name.startswith("se_tools.")]:
        del sys.modules[name]


def test_every_tool_for_users_has_its_command():
    named = {path.stem for path in (ROOT / "tools").glob("*.py")}
    wanted = {name for name in named if not name.startswith(NOT_INSTALLED_AS_COMMANDS)}
    assert {value.partition(":")[2] for value in SCRIPTS.values()} == wanted
    for command, value in SCRIPTS.items():
        tool = value.partition(":")[2].replace("_", "-")
        assert command == {"insert-se": "se-insert"}.get(tool, f"se-{tool}")


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_command_is_its_tool(command, se_tools, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    entry = EntryPoint(command, SCRIPTS[command], "console_scripts").load()
    with pytest.raises(SystemExit) as ended:
        entry()
    assert ended.value.code == 0 and f"usage: {command} " in capsys.readouterr().out


def test_a_command_ends_as_its_tool_does_and_leaves_the_path(se_tools, monkeypatch, capsys, tmp_path):
    absent, path = str(tmp_path / "absent.pth"), list(sys.path)
    monkeypatch.setattr(sys, "argv", ["se-convert-weights", absent, str(tmp_path / "out.safetensors")])
    assert EntryPoint("se-convert-weights", SCRIPTS["se-convert-weights"], "console_scripts").load()() == 2
    assert f"error: {absent}: no such file" in capsys.readouterr().err
    assert sys.path == path


def test_the_version_is_stated_once_and_cited(build):
    assert build["version"] == PROJECT["version"]
    assert "version" not in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert citation()["version"] == PROJECT["version"]


def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_is_of_this_software_and_of_the_paper():
    cited = citation()
    assert cited["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= cited.keys()
    assert [author["name"] for author in cited["authors"]] == [author["name"] for author in PROJECT["authors"]]
    assert cited["license"] == PROJECT["license"] == "MIT"
    paper = cited["references"][0]
    assert paper["title"] == "Squeeze-and-Excitation Networks" and paper["year"] == 2018
    assert [author["family-names"] for author in paper["authors"]] == ["Hu", "Shen", "Sun"]
