"""Imports go one way: tools -> studies -> detection | places365 -> classification -> engine -> se_backbones.

Read from the source.
"""

import ast
import functools
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "se_backbones", "engine", "synthetic", "classification", "places365", "detection", "studies", "soak", "benchmarks",
    "tools", "tests",
)  # fmt: skip

# What each room may import of ours, besides itself.
MAY_IMPORT = {
    "se_backbones": set(),
    "engine": {"se_backbones"},
    "synthetic": {"engine"},
    "classification": {"se_backbones", "engine", "synthetic"},
    "places365": {"se_backbones", "engine", "classification", "synthetic"},
    "detection": {"se_backbones", "engine", "synthetic"},
    "studies": {"se_backbones", "engine", "synthetic", "classification", "places365", "detection"},
    "soak": {"se_backbones", "engine", "synthetic", "classification", "places365", "detection"},
    "benchmarks": {"se_backbones", "engine", "synthetic", "classification", "places365", "detection"},
    "tools": {
        "se_backbones", "engine", "synthetic", "classification", "places365", "detection", "studies", "soak",
        "benchmarks",
    },
}  # fmt: skip

# The networks need torch alone. Finding, reading and handing on weights may need these, inside functions.
WITH_WEIGHTS = ("weights", "hub")
LAZY_IN_WEIGHTS = {"huggingface_hub", "numpy", "safetensors", "timm", "torchvision", "tqdm"}
# Finds which layers share channels; an extra, imported where pruning is asked for.
PRUNING_FILES = {"se_backbones/surgery/channel_groups.py"}
# The GPU kernels are written in Triton, which comes with PyTorch where it can run; imported where it is there.
TRITON_FILES = {"se_backbones/layers/gated_triton.py"}

# These parts of detection do not import Detectron2.
WITHOUT_D2 = ("detection.annotations", "detection.coco_ap")

# Command lines longer than they should be, on purpose: set-up runs before anything of ours can be imported,
# the benchmarks are stories of several steps.
LONG_TOOLS = {"setup_environment.py", "install_detectron2.py"}
LONG_TOOL_PREFIXES = ("benchmark",)
LINES_OF_A_TOOL = 80


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[str, ast.stmt, bool]]:
    """Every imported dotted name, its statement, and whether it stands inside a function.

    ``from a import b`` gives "a" and "a.b", as b may be a module. Relative imports are resolved against
    `path`. importlib.import_module("a.b") with a constant counts too: it is the usual way around such a test.
    """

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, ast.stmt, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    package = path.relative_to(ROOT).parent.parts
                    package = package[: len(package) - child.level + 1]
                    base = ".".join((*package, *([child.module] if child.module else [])))
                yield base, child, inside
                yield from ((f"{base}.{alias.name}", child, inside) for alias in child.names)
            elif isinstance(child, ast.Call) and child.args and isinstance(child.args[0], ast.Constant):
                called = child.func.attr if isinstance(child.func, ast.Attribute) else getattr(child.func, "id", "")
                if called in ("import_module", "__import__", "importorskip") and isinstance(child.args[0].value, str):
                    yield child.args[0].value, child, inside
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, inside or function)

    yield from visit(tree, False)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def parsed(path: Path) -> tuple[tuple[str, ast.stmt, bool], ...]:
    return tuple(imports(tree_of(path), path))


@pytest.mark.parametrize("path", sources(*MAY_IMPORT), ids=ids)
def test_rooms_import_downwards_only(path):
    room = path.relative_to(ROOT).parts[0]
    forbidden = set(ROOMS) - MAY_IMPORT[room] - {room}
    wrong = [f"line {node.lineno}: {name}" for name, node, _ in parsed(path) if name.split(".")[0] in forbidden]
    assert not wrong, f"{ids(path)} imports from a room above or beside it: {wrong}"


@pytest.mark.parametrize("path", sources("se_backbones"), ids=ids)
def test_the_networks_need_torch_alone(path):
    in_weights = path.relative_to(ROOT).parts[1] in WITH_WEIGHTS
    allowed = set(sys.stdlib_module_names) | {"torch", "se_backbones"}
    if ids(path) in TRITON_FILES:
        allowed.add("triton")
    if ids(path) in PRUNING_FILES:
        allowed.add("torch_pruning")
    wrong = [
        f"line {node.lineno}: {name}"
        for name, node, inside in parsed(path)
        if name.split(".")[0] not in allowed and not (in_weights and inside and name.split(".")[0] in LAZY_IN_WEIGHTS)
    ]
    assert not wrong, f"{ids(path)} imports more than torch and the standard library: {wrong}"


@pytest.mark.parametrize("path", sources(*ROOMS), ids=ids)
def test_compat_is_imported_before_detectron2(path):
    if path == ROOT / "engine" / "compat.py":
        return
    found = parsed(path)
    uses = [(node.lineno, inside) for name, node, inside in found if name.split(".")[0] == "detectron2"]
    if not uses:
        return
    # A test may leave it to detection's names, whose import does it: that this is enough is part of what is promised.
    in_tests = path.is_relative_to(ROOT / "tests")
    bridges = [
        (node.lineno, inside)
        for name, node, inside in found
        if name == "engine.compat" or (in_tests and name.startswith("detection.") and not name.startswith(WITHOUT_D2))
    ]
    at_the_top = [line for line, inside in bridges if not inside]
    for line, inside in uses:
        before = [b for b in at_the_top if inside or b < line] or [b for b, i in bridges if i and inside and b < line]
        assert before, f"{ids(path)}, line {line} imports detectron2; `from engine import compat` has to come before it"


def lines_of_code(path: Path) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    ignored = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in ignored:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("path", sources("tools"), ids=ids)
def test_command_lines_are_thin(path):
    if path.name in LONG_TOOLS or path.name.startswith(LONG_TOOL_PREFIXES):
        return
    lines = lines_of_code(path)
    assert lines <= LINES_OF_A_TOOL, f"{ids(path)} has {lines} lines of code: what it works out belongs in a room"


@pytest.mark.parametrize("path", [p for p in sources(*MAY_IMPORT) if p.name == "__init__.py"], ids=ids)
def test_init_files_only_show_names(path):
    """A folder's __init__.py imports and lists names; nobody would look there for anything else."""
    body = list(tree_of(path).body)
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            body += node.body + node.orelse
            continue
        shown = isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign)
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert shown or docstring, f"{ids(path)}, line {node.lineno}: move this into a module"


@pytest.mark.parametrize(
    ("room", "text", "expected"),
    [
        ("detection", "from places365 import data", {"places365", "places365.data"}),
        ("detection", "from . import data", {"detection", "detection.data"}),
        ("engine", "def f():\n    import detection.train", {"detection.train"}),
        ("engine", "import importlib\nimportlib.import_module('detection')", {"importlib", "detection"}),
        ("engine", "try:\n    import tools.demo\nexcept ImportError:\n    pass", {"tools.demo"}),
    ],
)
def test_every_form_of_import_is_seen(room, text, expected):
    assert {name for name, _, _ in imports(ast.parse(text), ROOT / room / "example.py")} == expected


def node_of(parts: tuple[str, ...]) -> str:
    """Where a module stands in the order of a room: its folder, or the module itself where it is at the room's top."""
    return "/".join(parts[:-1] if len(parts) > 2 else parts)


def module_path(name: str) -> tuple[str, ...] | None:
    """The file of a dotted name of ours, or of what it is taken from."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if ROOT.joinpath(*parts[:end]).with_suffix(".py").is_file():
            return (*parts[: end - 1], f"{parts[end - 1]}.py")
    return None


def test_no_circle_of_folders():
    """Inside the rooms too, imports go one way from folder to folder, those inside functions included."""
    uses: dict[str, set[str]] = {}
    for path in sources(*MAY_IMPORT):
        parts = path.relative_to(ROOT).parts
        if path.name != "__init__.py":
            used = {node_of(found) for name, _, _ in parsed(path) if (found := module_path(name))}
            uses.setdefault(node_of(parts), set()).update(used - {node_of(parts)})
    while leaves := [node for node, used in uses.items() if not used & uses.keys()]:
        for node in leaves:
            del uses[node]
    assert not uses, f"these import each other in a circle, or stand on such: {sorted(uses)}"


# Names of one family's stages and modules. Detectron2's own heads have one in a method's name.
OF_A_FAMILY = re.compile(r"(?<![A-Za-z])(res[2-5]|layer[1-4])(?![A-Za-z])")
# What Detectron2's own classes call their parts.
EXCEPT = {"detection/backbone.py": {"_build_res5_block"}, "detection/export/graph.py": {"res5"}}


@pytest.mark.parametrize("path", sources(*MAY_IMPORT), ids=ids)
def test_no_file_outside_a_family_names_its_stages(path):
    """Code, not what comments and docstrings give as an example, nor what a message does."""
    if "families" in path.parts:
        return
    nodes = list(ast.walk(tree_of(path)))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Raise | ast.JoinedStr):
            prose |= {id(part) for part in ast.walk(node)}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in prose]
    fields = [getattr(node, field, None) for node in nodes for field in ("id", "attr", "name", "arg")]
    names = {name for name in (*texts, *fields) if isinstance(name, str)}
    wrong = {name for name in names if OF_A_FAMILY.search(name)} - EXCEPT.get(ids(path), set())
    assert not wrong, f"{ids(path)} knows a family's names: {sorted(wrong)}"
