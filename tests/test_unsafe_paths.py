"""No path of ours reaches code that runs what a file says: Detectron2's checkpointer and config loader, unpickling,
torch.load as it was, YAML tags.

Shown three times: read from the source; by runs of both tasks, in which each of those functions would raise; and by
files made to run code, given to each place that takes a file.
"""

import ast
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from classification.trained import load_classifier
from detection.config import load_config
from detection.initial_weights import load_initial_weights
from detection.model import build_detector, with_classes
from detection.predict.predictor import Predictor
from detection.train import Options, run_detection
from detection.trained import load_detector
from engine.errors import UserError
from places365.train import Options as SceneOptions
from places365.train import run_places365
from se_backbones import create_backbone
from synthetic.shapes import generate_shapes

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("se_backbones", "engine", "synthetic", "classification", "places365", "detection", "soak", "tools")

# --- as the source has it ---

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


# --- as it runs ---


class Reached(BaseException):
    """No Exception: whoever catches those would hide it."""


_unpickled = None  # a list, while somebody looks


def _hook(event, arguments):
    # Every unpickler of Python's own tells of each name that it looks up; our guarded one looks up none.
    if _unpickled is not None and event == "pickle.find_class":
        _unpickled.append(".".join(map(str, arguments)))


@pytest.fixture
def guarded(monkeypatch):
    """Every function that could run a file's content raises; lookups of unpicklers are collected."""
    import fvcore.common.checkpoint
    import fvcore.common.config
    import yacs.config

    import detectron2.checkpoint
    import detectron2.checkpoint.detection_checkpoint
    import detectron2.config

    def reached(what):
        def function(*_args, **_kwargs):
            raise Reached(what)

        return function

    for owner, names in (
        (fvcore.common.checkpoint.Checkpointer, "__init__ load _load_file _load_model resume_or_load"),
        (detectron2.checkpoint.DetectionCheckpointer, "__init__ load _load_file _load_model"),
        (fvcore.common.config.CfgNode, "load_yaml_with_base merge_from_file load_cfg"),
        (detectron2.config.CfgNode, "merge_from_file"),
        (
            yacs.config.CfgNode,
            "load_cfg _load_cfg_from_file _load_cfg_py_source _load_cfg_from_yaml_str merge_from_file",
        ),
        (pickle, "load loads Unpickler _Unpickler _load _loads"),
        (yaml, "unsafe_load unsafe_load_all full_load full_load_all"),
        (yaml.UnsafeLoader, "__init__"),
        (yaml.FullLoader, "__init__"),
        (torch.hub, "load load_state_dict_from_url download_url_to_file"),
        (torch.jit, "load"),
    ):
        for name in names.split():
            monkeypatch.setattr(owner, name, reached(f"{owner.__name__}.{name}"))

    load, numpy_load = torch.load, np.load

    def torch_load(*arguments, **words):
        if words.get("weights_only") is not True:
            raise Reached("torch.load without weights_only=True")
        return load(*arguments, **words)

    def safe_numpy_load(*arguments, **words):
        if words.get("allow_pickle"):
            raise Reached("numpy.load with allow_pickle")
        return numpy_load(*arguments, **words)

    monkeypatch.setattr(torch, "load", torch_load)
    monkeypatch.setattr(np, "load", safe_numpy_load)
    if not getattr(sys, "_se_backbones_hook", False):  # a hook can never be taken out again: one will do
        sys.addaudithook(_hook)
        sys._se_backbones_hook = True
    monkeypatch.setattr(sys.modules[__name__], "_unpickled", [])
    yield
    assert _unpickled == [], "a pickle was read by Python's own unpickler"


def test_the_guards_work(guarded, tmp_path):
    import detectron2.checkpoint
    import detectron2.config

    (tmp_path / "c.yaml").write_text("VERSION: 2\n")
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    for unsafe in (
        lambda: detectron2.checkpoint.DetectionCheckpointer(torch.nn.Linear(1, 1)),
        lambda: detectron2.config.get_cfg().merge_from_file(str(tmp_path / "c.yaml")),
        lambda: yaml.unsafe_load("1"),
        lambda: pickle.loads(b"N."),
        lambda: torch.load(tmp_path / "w.pth", weights_only=False),
        lambda: np.load(tmp_path / "w.npy", allow_pickle=True),
    ):
        with pytest.raises(Reached):
            unsafe()
    from _pickle import loads  # where no replaced name stands in the way

    loads(pickle.dumps(Payload("nothing", print)))
    assert _unpickled == ["builtins.print"]
    _unpickled.clear()


TINY = [
    "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "SOLVER.MAX_ITER", "1", "TEST.EVAL_PERIOD", "0",
    "SOLVER.CHECKPOINT_PERIOD", "1", "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """What makes a config of the demo's train on a few drawn pictures."""
    made = generate_shapes(tmp_path_factory.mktemp("shapes") / "set", train=2, val=2, size=64)
    return [
        "DATA.TRAIN.JSON", str(made.train_json), "DATA.TRAIN.IMAGES", str(made.train_images),
        "DATA.VAL.JSON", str(made.val_json), "DATA.VAL.IMAGES", str(made.val_images), *TINY,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config of two files."""
    path = tmp_path_factory.mktemp("configs") / "mine.yaml"
    path.write_text(f"_BASE_: {ROOT / 'configs' / 'demo.yaml'}\nMODEL: {{BACKBONE: {{ARCHITECTURE: resnet18}}}}\n")
    return path


def weights_of_each_form(folder):
    """One classifier's weights in each form that is read."""
    state = create_backbone("resnet18", 2).state_dict()
    torch.save({"state_dict": state}, folder / "zip.pth")
    torch.save({"state_dict": state}, folder / "legacy.pth.tar", _use_new_zipfile_serialization=False)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    (folder / "arrays.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision"}))
    pytest.importorskip("safetensors.torch").save_file(state, folder / "w.safetensors")
    return sorted(folder.iterdir())


def test_a_detection_run_reaches_none_of_them(shapes, config, tmp_path, request):
    (tmp_path / "weights").mkdir()
    files = weights_of_each_form(tmp_path / "weights")
    request.getfixturevalue("guarded")
    cfg = with_classes(load_config(config, shapes), 5, "the test")
    model = build_detector(cfg)
    for file in files:
        load_initial_weights(model, load_config(config, [*shapes, "MODEL.WEIGHTS", str(file)]), tmp_path)
    words = [*shapes, "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.WEIGHTS", str(files[0])]
    figures = run_detection(Options(config=str(config), overrides=words))
    assert "bbox" in figures
    run_detection(Options(config=str(config), overrides=words[:-2], resume=True))
    trained = tmp_path / "run" / "model_final.pth"
    run_detection(Options(config=str(config), overrides=[*words[:-2], "MODEL.WEIGHTS", str(trained)], eval_only=True))
    model, cfg, classes, _ = load_detector(trained, device="cpu")
    assert len(Predictor(model, cfg, classes).predict([np.zeros((64, 64, 3), np.uint8)])) == 1


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, write_scenes):
    """What makes a scene classifier train on a few noise pictures in two class folders."""
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), {"train": 2, "val": 2}, ("beach", "street"))
    return [
        "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "resnet18", "INPUT.TRAIN_SIZE", "32",
        "INPUT.TEST_RESIZE", "32", "INPUT.TEST_SIZE", "32", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "1",
        "SOLVER.BASE_LR", "0.0001", "DATALOADER.NUM_WORKERS", "0", "DATA.ROOT", str(folder),
        "DATA.CACHE", str(folder / "cache"),
    ]  # fmt: skip


def test_a_scene_classification_run_reaches_none_of_them(scenes, tmp_path, request):
    (tmp_path / "weights").mkdir()
    file = weights_of_each_form(tmp_path / "weights")[0]
    request.getfixturevalue("guarded")
    words = [*scenes, "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.WEIGHTS", str(file)]
    assert "places365" in run_places365(SceneOptions(config=None, overrides=words))
    trained = tmp_path / "run" / "model_final.pth"
    run_places365(SceneOptions(config=None, overrides=[*words[:-1], str(trained)], eval_only=True))
    model = load_classifier(trained, device="cpu")[0]
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 2)


# --- files made to run code, at each place that takes a file ---


class Payload:
    """Calls a function when unpickled."""

    def __init__(self, argument, function=os.mkdir):
        self.function, self.argument = function, argument

    def __reduce__(self):
        return (self.function, (self.argument,)) if self.function is not print else (print, ())


@pytest.fixture
def mark(tmp_path):
    path = tmp_path / "it_ran"
    yield str(path)
    assert not path.exists(), "the payload ran"


def hostile(form, mark, folder):
    content = {"format": "se-backbones-checkpoint/1", "task": "detection", "model": (1, [Payload(mark)])}
    path = folder / f"hostile{'.pkl' if form == 'pkl' else '.pth'}"
    if form == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return str(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "pkl"])
def test_hostile_weights_run_nothing_wherever_they_are_given(form, shapes, scenes, config, mark, tmp_path):
    path = hostile(form, mark, tmp_path)
    detection = [*shapes, "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.WEIGHTS", path]
    classification = [*scenes, "OUTPUT_DIR", str(tmp_path / "scene_run"), "MODEL.WEIGHTS", path]
    for given in (
        lambda: load_detector(path),
        lambda: load_classifier(path),
        lambda: run_detection(Options(config=str(config), overrides=detection)),
        lambda: run_detection(Options(config=str(config), overrides=detection, eval_only=True)),
        lambda: run_places365(SceneOptions(config=None, overrides=classification)),
        lambda: run_places365(SceneOptions(config=None, overrides=classification, eval_only=True)),
    ):
        with pytest.raises(UserError, match="hostile"):
            given()
    assert not list(tmp_path.rglob("*checkpoint*")) and not list(tmp_path.rglob("model_final*"))


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir ['{}']", "!!python/name:os.mkdir", "!!python/module:os"]
)
def test_a_hostile_config_runs_nothing_in_either_task(tag, mark, tmp_path):
    path = tmp_path / "hostile.yaml"
    path.write_text(f"OUTPUT_DIR: {tag.format(mark)}\n")
    child = tmp_path / "child.yaml"
    child.write_text("_BASE_: hostile.yaml\n")
    for file in (path, child):
        with pytest.raises(UserError, match=r"hostile\.yaml.*tags"):
            run_detection(Options(config=str(file)))
        with pytest.raises(UserError, match=r"hostile\.yaml.*tags"):
            run_places365(SceneOptions(config=str(file)))
