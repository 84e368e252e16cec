"""No path of ours reaches code that runs what a file says: Detectron2's checkpointer and config loader, unpickling,
torch.load as it was, YAML tags.

Shown three times: read from the source (test_unsafe_source.py); here by runs of both tasks, in which each of those
functions would raise, and by files made to run code, given to each place that takes a file.
"""

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
