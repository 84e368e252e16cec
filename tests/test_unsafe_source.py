"""No path of ours reaches code that runs what a file says, as the source has it (as it runs: test_unsafe_paths.py):
Detectron2's checkpointer and config loader, unpickling, torch.load as it was, YAML tags."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("se_backbones", "engine", "synthetic", "classification", "places365", "detection", "soak", "tools")

# Dotted names and what is below them. (torch.load, numpy.load and yaml.load are looked at more closely.)
FORBIDDEN = """
    detectron2.checkpoint fvcore.common.checkpoint detectron2.model_zoo detectron2.export
    detectron2.engine.defaults detectron2.engine.DefaultTrainer detectron2.engine.DefaultPredictor
    detectron2.engine.default_setup detectron2.config.LazyConfig detectron2.config.lazy detectron2.config.instantiate
    pickle.load pickle.loads pickle._load pickle._loads pickle._Unpickler _pickle cloudpickle dill joblib shelve marshal
    pandas.read_pickle
    torch.jit.load torch.package torch.export.load torch.hub.load torch.hub.load_state_dict_from_url
    torch.utils.model_zoo torch.distributed.checkpoint torch.serialization.load torch.serialization.add_safe_globals
    yaml.unsafe_load yaml.unsafe_load_all yaml.full_load yaml.full_load_all yaml.load_all yaml.Loader yaml.CLoader
    yaml.UnsafeLoader yaml.CUnsafeLoader yaml.FullLoader yaml.CFullLoader
    runpy code.interact builtins.eval builtins.exec builtins.compile
""".split()
# Methods, on whatever object: of CfgNode, of the checkpointers.
FORBIDDEN_METHODS = {
    "merge_from_file",
    "load_yaml_with_base",
    "load_cfg",
    "_load_cfg_from_file",
    "_load_cfg_py_source",
    "_load_cfg_from_yaml_str",
    "resume_or_load",
    "read_pickle",
}
# The one class that may go on from pickle's: it finds a short list of stand-ins, and nothing else.
GUARDED = ("se_backbones/weights/formats/pickle_guard.py", "GuardedUnpickler")
# What is no file: a benchmark hands an index to a process of its own, as multiprocessing does.
ALLOWED = {
    "tools/benchmark_index.py": {"pickle.loads"},
    # Behind `check`, which refuses files with anything but arithmetic in them.
    "engine/export/torch_export_file.py": {"torch.export.load"},
}


def unsafe_uses(source: str, name: str = "example.py") -> list[str]:
    """``line N: what`` for each use of a function that can run what a file says."""
    tree = ast.parse(source)
    names: dict[str, str] = {builtin: f"builtins.{builtin}" for builtin in ("eval", "exec", "compile", "__import__")}
    found: list[tuple[int, str]] = []
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader"}

    def dotted(node) -> str:
        if isinstance(node, ast.Name):
            return names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{dotted(node.value)}.{node.attr}"
        return ""

    def constant(call: ast.Call, keyword: str):
        return next((ast.unparse(word.value) for word in call.keywords if word.arg == keyword), None)

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
                found.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                found.append((node.lineno, f"{node.module}.{alias.name}"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {dotted(base) for base in node.bases}
            if bases & safe_loaders:
                safe_loaders.add(node.name)
            own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            if "pickle.Unpickler" in bases and (
                (name, node.name) != GUARDED or not own >= {"find_class", "persistent_load"}
            ):
                found.append((node.lineno, "pickle.Unpickler as a base"))
        elif isinstance(node, ast.Name | ast.Attribute) and not isinstance(parents.get(node), ast.Attribute):
            found.append((node.lineno, dotted(node)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # import_module("…"), getattr(x, "…")
            call = parents.get(node)
            if isinstance(call, ast.Call) and dotted(call.func).split(".")[-1] in (
                "import_module",
                "__import__",
                "getattr",
            ):
                found.append((node.lineno, node.value))
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_METHODS:
            found.append((node.lineno, f"FORBIDDEN .{node.attr}"))
    bad = [
        (line, what)
        for line, what in found
        if what.startswith("FORBIDDEN") or what.endswith("as a base") or what in FORBIDDEN_METHODS
        or any(what == forbidden or what.startswith(f"{forbidden}.") for forbidden in FORBIDDEN)
    ]  # fmt: skip
    for node in ast.walk(tree):
        what = dotted(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        call = parents.get(node)
        called = isinstance(call, ast.Call) and call.func is node
        if what == "torch.load" and not (called and constant(call, "weights_only") == "True"):
            bad.append((node.lineno, "torch.load without weights_only=True"))
        elif what == "numpy.load" and not (called and constant(call, "allow_pickle") in (None, "False")):
            bad.append((node.lineno, "numpy.load with allow_pickle"))
        elif what == "yaml.load":
            loader = constant(call, "Loader") if called else None
            if loader not in safe_loaders and dotted(ast.parse(loader or "0", mode="eval").body) not in safe_loaders:
                bad.append((node.lineno, "yaml.load with another loader than the safe one"))
        elif what == "pickle.Unpickler" and not isinstance(call, ast.ClassDef):
            bad.append((node.lineno, "pickle.Unpickler itself"))
    return sorted({f"line {line}: {what}" for line, what in bad}, key=lambda text: int(text.split()[1][:-1]))


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_in_the_source_can_run_a_file(room):
    paths = sorted((ROOT / room).rglob("*.py"))
    assert paths
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        found = unsafe_uses(path.read_text(encoding="utf-8"), name)
        assert [use for use in found if use.split(": ")[1] not in ALLOWED.get(name, ())] == [], name


@pytest.mark.parametrize(
    "source",
    [
        "from detectron2.checkpoint import DetectionCheckpointer",
        "import detectron2.checkpoint as c",
        "from detectron2 import checkpoint",
        "from fvcore.common.checkpoint import Checkpointer",
        "import importlib; importlib.import_module('detectron2.checkpoint')",
        "from detectron2.engine import DefaultTrainer as T",
        "import detectron2.engine as e; e.DefaultPredictor(cfg)",
        "cfg.merge_from_file(path)",
        "CfgNode.load_yaml_with_base(path, allow_unsafe=True)",
        "type(cfg).load_cfg(file)",
        "getattr(cfg, 'merge_from_file')(path)",
        "import yaml; yaml.load(text)",
        "import yaml; yaml.load(text, Loader=yaml.UnsafeLoader)",
        "import yaml as y; y.load(text, Loader=y.FullLoader)",
        "import yaml\nclass L(yaml.FullLoader): pass\nyaml.load(text, Loader=L)",
        "from yaml import unsafe_load",
        "import pickle; pickle.load(file)",
        "from pickle import loads as parse",
        "import pickle as p; read = p.loads",
        "import pickle; pickle.Unpickler(file).load()",
        "import pickle\nclass Mine(pickle.Unpickler):\n    def find_class(self, a, b): pass",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import torch; torch.load(path, weights_only=flag)",
        "from torch import load; load(path)",
        "import torch; read = torch.load",
        "import torch; torch.hub.load_state_dict_from_url(url)",
        "import torch; torch.jit.load(path)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "exec(compile(text, 'f', 'exec'))",
        "import marshal",
        "import joblib",
    ],
)
def test_each_of_them_is_seen_in_a_source(source):
    assert unsafe_uses(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path, weights_only=True); torch.hub.get_dir(); model.eval(); model.compile()",
        "import yaml\nclass L(yaml.SafeLoader): pass\nyaml.load(text, Loader=L); yaml.safe_load(text)",
        "import pickle; pickle.dump(values, file); import ast; ast.literal_eval(text); import re; re.compile('a')",
        "import numpy as np; np.load(path); np.load(path, allow_pickle=False)",
        "from detectron2.config import CfgNode; from detectron2.engine.hooks import PeriodicWriter",
    ],
)
def test_what_is_safe_is_let_alone(source):
    assert unsafe_uses(source) == []
