"""Files of torch.export (.pt2), run by PyTorch."""

from __future__ import annotations

import ast
import functools
import json
import re
import warnings
import zipfile
from pathlib import Path

import sympy
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.utils._sympy import functions as torch_functions

from engine.errors import UserError
from engine.export.facts import KEY, ExportFacts

FACTS = f"{KEY}.json"
# What a graph of ours calls. PyTorch's reader looks up any name that stands in a file, and calls it.
CALLED = re.compile(
    r"torch\.ops\.(aten|torchvision)\.\w+\.\w+|_operator\.\w+|math\.(trunc|ceil|floor|sqrt)|torch\.sym_(int|float|max|min|not|ite)"
)
# Parts of a file that PyTorch's reader unpickles, or runs.
REFUSED = ("custom_obj", "aotinductor", "executorch", ".so", ".py")


def write(program: ExportedProgram, path: Path, facts: ExportFacts, quantise=None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={FACTS: facts.to_text()})


class Session:
    """A file of torch.export, ready to run.

    Attributes:
        facts: what it says of itself. device: where it runs.
    """

    def __init__(self, path: Path, device: torch.device):
        self.facts, self.device = check(path), device
        try:
            program = torch.export.load(path)
        except Exception as error:
            raise UserError(
                f"this PyTorch ({torch.__version__}) cannot read {path}, which {self.facts.versions.get('torch')} "
                f"wrote ({type(error).__name__}): export it again"
            ) from error
        program = program if device.type == "cpu" else move_to_device_pass(program, device)
        self._function = program.module(check_guards=False)  # the guards are Python code in the file

    @torch.no_grad()
    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        found = self._function(*(inputs[name].to(self.device) for name in self.facts.inputs))
        return list(found) if isinstance(found, tuple | list) else [found]


def check(path: Path) -> ExportFacts:
    """Reads a file without running anything of it, and refuses what loading it would run.

    PyTorch's reader unpickles tensors where the file says so, evaluates the sizes that stand in it as text, and calls
    whatever function a graph names. A file written here has none of the first, and of the others arithmetic alone.

    Raises:
        UserError: the file is no such file, is damaged, or would run something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            entries = {name.partition("/")[2]: name for name in names}
            if len(entries) != len(names) or archive.testzip() is not None:
                raise UserError(f"{path} is damaged: export it again")
            if FACTS_ENTRY not in entries:
                raise UserError(f"{path} does not say what it holds: tools/export.py did not write it")
            facts = ExportFacts.from_text(archive.read(entries[FACTS_ENTRY]).decode(), path)
            for entry, name in entries.items():
                if any(word in entry for word in REFUSED):
                    raise _Unsafe(f"the part {entry}")
                if entry.endswith(".json") and entry != FACTS_ENTRY:
                    _check_values(json.loads(archive.read(name)))
            return facts
    except _Unsafe as error:
        raise UserError(f"{path} is not loaded: {error} is none that tools/export.py writes") from None
    except (zipfile.BadZipFile, UnicodeDecodeError, json.JSONDecodeError, RecursionError, OSError) as error:
        raise UserError(f"{path} is no file of torch.export, or is damaged ({error})") from error


FACTS_ENTRY = f"extra/{FACTS}"


class _Unsafe(Exception):
    """What loading would run."""


def _check_values(value) -> None:
    if isinstance(value, list):
        for one in value:
            _check_values(one)
    elif isinstance(value, dict):
        if value.get("use_pickle"):
            raise _Unsafe("a pickled tensor")
        for key, one in value.items():
            if key == "target" and isinstance(one, str) and not CALLED.fullmatch(one):
                raise _Unsafe(f"a call of {one}")
            if key == "expr_str":
                _check_size(str(one))
            _check_values(one)


@functools.cache
def _check_size(text: str) -> None:
    """A size as sympy writes it: names of its classes, applied to numbers, to each other, and to names of symbols."""
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        raise _Unsafe(f"the size {text[:80]!r}") from None
    if not _is_size(tree):
        raise _Unsafe(f"the size {text[:80]!r}")


def _is_size(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    if isinstance(node, ast.Name):
        return node.id in ("oo", "int_oo", "true", "false")
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    kind = getattr(sympy, node.func.id, None) or getattr(torch_functions, node.func.id, None)
    if not (isinstance(kind, type) and issubclass(kind, sympy.Basic)):
        return False
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    if kind in (sympy.Symbol, sympy.Integer, sympy.Float):
        return all(_is_size(one) or (isinstance(one, ast.Constant) and _is_name(one.value)) for one in arguments)
    return all(map(_is_size, arguments))


def _is_name(value) -> bool:
    """Of a symbol, or a number with all its digits."""
    return isinstance(value, str) and re.fullmatch(r"[a-z]\w{0,30}|-?\d{1,30}(\.\d{0,30})?", value) is not None
