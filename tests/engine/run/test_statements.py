"""What weights say of themselves, held against the config under which they are used."""

import pytest
import torch
from fvcore.common.config import CfgNode

from classification.config import load_config
from classification.model import build_network
from classification.task import CLASS_FOLDERS
from engine.errors import UserError
from engine.run.experiment import description
from engine.run.initial_weights import find_trained_weights, load_trained_weights, restore_weights
from engine.run.statements import check_classes, setting_differences, understand, unmarked_settings
from engine.task import TaskInfo
from engine.train.checkpoint import load_checkpoint, save_checkpoint
from se_backbones.weights import convert_file, read_state_dict

TASK = CLASS_FOLDERS.info
BASE = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18"]
CLASSES = ["a", "b"]
LEGACY = ("se_resnet18_caffe", "se_resnet50_caffe", "resnet50_msra", "se_resnext50_32x4d_caffe")  # one of each kind


def config(*overrides):
    return load_config(None, [*BASE, *map(str, overrides)])


def save(path, *overrides, **beside):
    """A checkpoint of a run with this config; its averaged weights are not those beside them."""
    cfg = config(*overrides)
    network = build_network(cfg, len(CLASSES))
    ema = {f"module.{name}": tensor + 0.5 for name, tensor in network.state_dict().items()}
    about = {**description(TASK, cfg, CLASSES), "iteration": 4, "model": network.state_dict(), "ema": ema}
    return save_checkpoint(path, {**about, **beside})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The three forms in which a run's weights are named."""
    path = save(tmp_path_factory.mktemp("run") / "model_final.pth")
    convert_file(path, path.with_name("converted.safetensors"))
    return {"own": str(path), "part": f"{path}#model", "converted": str(path.with_name("converted.safetensors"))}


def evaluate(source, tmp_path, *overrides):
    cfg = config("MODEL.WEIGHTS", source, *overrides)
    network = build_network(cfg, len(CLASSES))
    load_trained_weights(network, find_trained_weights(cfg, tmp_path, asked_for=True), cfg, TASK, tmp_path)
    return network


@pytest.mark.parametrize("name", LEGACY)
def test_the_runs_of_legacy_architectures_fit_their_own_configs(name):
    """Their stride, pooling and preprocessing leave no mark on a tensor, and the checkpoint states them."""
    cfg = config("MODEL.BACKBONE.ARCHITECTURE", name)
    network = build_network(cfg, len(CLASSES))
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    content = {"format": "se-backbones-checkpoint/1", **description(TASK, cfg, CLASSES), "iteration": 1, "model": state}
    restore_weights(network, content, "own.pth", cfg, TASK)


@pytest.mark.parametrize("form", ["own", "part", "converted"])
@pytest.mark.parametrize(
    "overrides, words",
    [
        (["MODEL.SE.GATE", "relu"], "SE gate 'sigmoid'.*'relu'"),
        (["MODEL.SE.PLACEMENT", "pre"], "SE placement 'standard'.*'pre'"),
        (["MODEL.SE.SQUEEZE", "max"], "SE squeeze 'avg'.*'max'"),
        (["INPUT.FORMAT", "BGR"], "want images as RGB.*gives BGR"),
        (["MODEL.PIXEL_MEAN", "[0, 0, 0]"], "mean .*123.675"),
        (["MODEL.PIXEL_STD", "[1, 1, 1]"], "std .*58.395"),
        (["MODEL.BACKBONE.ARCHITECTURE", "se_resnet18_caffe"], "Take 'se_resnet18'"),
    ],
)
def test_a_config_that_contradicts_them_is_refused_in_every_form(files, tmp_path, form, overrides, words):
    with pytest.raises(UserError, match=f"(?s){words}"):
        evaluate(files[form], tmp_path, *overrides)


def test_the_averaged_weights_count_and_a_part_is_what_it_names(files, tmp_path):
    content = load_checkpoint(files["own"])
    for form, wanted in (("own", 0.5), ("converted", 0.5), ("part", 0)):
        network = evaluate(files[form], tmp_path)
        assert torch.equal(network.conv1.weight, content["model"]["conv1.weight"] + wanted)


def test_who_knows_better_says_so_and_no_name_is_excused_with_it(files, tmp_path, caplog):
    allow = ["MODEL.ALLOW", "['architecture', 'preprocessing', 'fc.*']"]
    evaluate(files["own"], tmp_path, "MODEL.SE.GATE", "relu", "INPUT.FORMAT", "BGR", *allow)
    assert "SE gate" in caplog.text and "BGR" in caplog.text
    content = load_checkpoint(files["own"])
    for tensors, prefix in ((content["model"], ""), (content["ema"], "module.")):
        del tensors[f"{prefix}fc.weight"]
    path = save_checkpoint(tmp_path / "headless.pth", content)
    with pytest.raises(UserError, match="fc.weight"):
        evaluate(str(path), tmp_path, *allow)
    # A run's own weights are not those that MODEL.ALLOW is about.
    (tmp_path / "model_final.pth").write_bytes((tmp_path / files["own"]).read_bytes())
    cfg = config("INPUT.FORMAT", "BGR", *allow)
    weights = find_trained_weights(cfg, tmp_path, asked_for=False)
    with pytest.raises(UserError, match="want images as RGB"):
        load_trained_weights(build_network(cfg, len(CLASSES)), weights, cfg, TASK, tmp_path)


@pytest.mark.parametrize("form", ["own", "part", "converted"])
@pytest.mark.parametrize(
    "classes, words",
    [(["a", "c"], "only in the first: b\n  only in the second: c"), (["b", "a"], "the same names in another order")],
)
def test_other_classes_are_told_in_every_form(files, form, classes, words, caplog):
    weights = read_state_dict(files[form])
    check_classes(weights, CLASSES, "the set")
    with pytest.raises(UserError, match=rf"of the set \(second\) differ:\n  {words}"):
        check_classes(weights, classes, "the set")
    check_classes(weights, classes, "the set", ["classes"])
    assert "differ" in caplog.text


TOYS = TaskInfo("toy", "Toys", (), {}, (), "f.json", "t.py", "p.py", unmarked=("A.SIZES*", "A.*.NORM"))


def cfg_of(sizes, norm="BN"):
    return CfgNode({"A": {"SIZES": sizes, "HEAD": {"NORM": norm}, "THRESHOLD": 1}})


@pytest.mark.parametrize("form", ["entry", "config"])
def test_a_tasks_unmarked_settings_are_compared(form):
    """With what a checkpoint says, or an older one's config: by value, batch normalisations as one."""
    then = cfg_of(((1, 2), (3,)))
    assert unmarked_settings(then, TOYS) == {"A.SIZES": [[1, 2], [3]], "A.HEAD.NORM": "BN"}
    said = {"unmarked": unmarked_settings(then, TOYS)} if form == "entry" else {"task": "toy", "config": then.dump()}
    network = build_network(config("MODEL.BACKBONE.ARCHITECTURE", "resnet20_cifar"), 2)
    weights = understand({**said, "model": network.state_dict()}, "file.pth")
    assert setting_differences(weights, cfg_of([[1, 2], [3]], "FrozenBN"), TOYS) == []
    (text,) = setting_differences(weights, cfg_of([[1, 2], [4]]), TOYS)
    assert "A.SIZES [[1, 2], [3]], and the config has [[1, 2], [4]]" in text
    assert len(setting_differences(weights, cfg_of([[5]], "GN"), TOYS)) == 2
