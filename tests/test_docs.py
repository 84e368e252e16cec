"""What the pages say is so: files and names that they mention exist, and the example family works as printed."""

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from se_backbones import create_backbone, list_backbones, registry
from se_backbones.weights import convert_file, load_weights, read_state_dict

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = ("se_backbones", "engine", "synthetic", "classification", "places365", "detection", "studies", "tools", "tests")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.-]+/[\w./-]*|setup\.py|\w+\.toml")  # below the root
NAME = re.compile(r"[A-Za-z_]\w+(?:\.\w+)*")


def prose(text):
    return FENCED.sub("", text)


def is_path(code):
    return PATH.fullmatch(code.split(" ")[0]) is not None


def rows_on_code():
    """(paths, names) of the tables' rows that say which names are in which files."""
    for line in prose(ARCHITECTURE).splitlines():
        cells = line.strip("| ").split(" | ")
        if line.startswith("| `") and len(cells) == 3:
            paths, names = (CODE.findall(cell) for cell in cells[:2])
            if names and all(path.endswith(".py") for path in paths):
                yield paths, names


ROWS_ON_CODE = list(rows_on_code())


def test_the_page_is_read():
    assert len(ROWS_ON_CODE) > 70 and len(FENCED.findall(ARCHITECTURE)) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page.read_text(encoding="utf-8")))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_paths_of_the_architecture_exist():
    paths = {code.split(" ")[0] for code in CODE.findall(prose(ARCHITECTURE)) if is_path(code)}
    assert len(paths) > 80
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]


def test_names_of_the_architecture_are_words_of_the_code():
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    names = {code for code in CODE.findall(prose(ARCHITECTURE)) if NAME.fullmatch(code)} - {"toynet.py", "__init__.py"}
    assert len(names) > 100
    assert not [name for name in sorted(names) if not set(name.split(".")) <= words]


@pytest.mark.parametrize(("paths", "names"), ROWS_ON_CODE, ids=lambda value: value[0])
def test_names_of_the_architecture_are_in_their_files(paths, names):
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in paths]
    for name in names:
        for part in name.split("."):
            defined = re.compile(rf"^\s*(?:def|class) {part}\b|^{part}\b.* = ", re.MULTILINE)
            assert any(defined.search(text) for text in texts), f"{name} is not defined in {', '.join(paths)}"


def test_the_table_of_networks_is_whole():
    """Names like ``{,se_}resnet{18,34}`` are all names, and a family's layouts are all that load."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("| family |")[2].partition("\n\n")[0]
    names, above = [], ""
    for line in text.splitlines()[2:]:
        _, listed, _, layouts, _ = (cell.strip() for cell in line.split("|")[1:-1])
        above = above if layouts == "the same" else layouts
        here = [name for code in CODE.findall(listed) for name in spread(code)]
        for name in here:
            family = registry.family_of(registry.find_spec(name))
            known = {layout.name.removesuffix("-model") for layout in family.layouts} - {"ours"}
            assert set(above.split(", ")) == known, name
        names += here
    assert sorted(names) == sorted(list_backbones())


def spread(name):
    """a{b,c} → ab, ac."""
    found = re.match(r"(.*?)\{([^}]*)\}(.*)", name)
    return [one for part in found[2].split(",") for one in spread(found[1] + part + found[3])] if found else [name]


def test_the_example_family_works_as_printed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    registry.families()  # all of them are there before they are copied
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    family, use, layout = (text for language, text in FENCED.findall(ARCHITECTURE) if language == "python")
    module = types.ModuleType("toynet")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for text in (family, use, layout):
        exec(compile(text, module.__name__, "exec", dont_inherit=True), vars(module))

    toy = registry._FAMILIES["toy"]
    monkeypatch.setitem(registry._FAMILIES, "toy", replace(toy, layouts=(module.PUBLISHER, *toy.layouts)))
    convert_file("toy.pth", "published.safetensors", "publisher")
    published = read_state_dict("published.safetensors")
    assert published.layout == "publisher" and {"features.stem.0.weight", "head.bias"} <= set(published.state_dict)
    network = create_backbone("toy", num_classes=10)
    load_weights(network, published)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in torch.load("toy.pth").items())
