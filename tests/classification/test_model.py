"""Classifiers from configs and weights: what is normalised, what is trained, what is loaded, what is refused."""

import json

import pytest
import torch

from classification.config import load_config
from classification.initial_weights import load_initial_weights
from classification.model import ImageClassifier, build_network
from classification.task import CLASS_FOLDERS
from classification.train import describe
from classification.trained import load_classifier
from engine import compat  # noqa: F401
from engine.errors import UserError
from engine.train.checkpoint import save_checkpoint
from engine.train.optim import build_optimizer

TINY = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18"]
CLASSES = ["beach", "bedroom", "street"]


def config(*overrides):
    return load_config(None, [*TINY, *map(str, overrides)])


class Index:
    classes = CLASSES


def stir(network, seed=5):
    """Weights and statistics as a training leaves them: none at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(noise + 0.5 if name.endswith("running_var") else tensor + 0.05 * (noise - 0.5))
    return network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A classifier with its checkpoint, averaged weights beside the last ones."""
    cfg = config()
    last, averaged = stir(build_network(cfg, 3), 1), stir(build_network(cfg, 3), 2)
    path = tmp_path_factory.mktemp("run") / "checkpoint_0000004.pth"
    ema = {f"module.{name}": tensor for name, tensor in averaged.state_dict().items()}
    content = {**describe(CLASS_FOLDERS, cfg, Index), "iteration": 4, "model": last.state_dict(), "ema": ema}
    save_checkpoint(path, content)
    return path, averaged


def test_bytes_in_are_normalised_numbers_in_the_network():
    cfg = config("MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]", "MODEL.PIXEL_STD", "[2.0, 4.0, 8.0]")
    model = ImageClassifier(build_network(cfg, 3), cfg).eval()
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    expected = (images.float() - torch.tensor([1.0, 2, 3]).view(3, 1, 1)) / torch.tensor([2.0, 4, 8]).view(3, 1, 1)
    with torch.inference_mode():
        assert torch.equal(model.normalise(images), expected)
        assert torch.equal(model(images), model.network(expected))
    assert not [name for name in model.state_dict() if "mean" in name.split(".")[:1]], "a part of the config was saved"


def test_the_same_seed_gives_the_same_first_weights():
    one, two, other = (build_network(config("SEED", seed), 3).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


def test_a_linear_probe_trains_the_classifier_alone():
    cfg = config("MODEL.BACKBONE.FREEZE_AT", 5)
    network = build_network(cfg, 3)
    optimizer = build_optimizer(network, cfg.SOLVER)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(network.fc.weight), id(network.fc.bias)}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_a_checkpoint_predicts_with_its_averaged_weights_and_classes(checkpoint):
    path, averaged = checkpoint
    model, cfg, classes = load_classifier(path, device="cpu")
    assert classes == CLASSES and cfg.MODEL.BACKBONE.ARCHITECTURE == "se_resnet18" and not model.training
    ours = model.network.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in averaged.state_dict().items())


def test_a_new_head_leaves_the_files_classifier_aside_even_where_it_would_fit(checkpoint, tmp_path):
    path, averaged = checkpoint
    cfg = config("MODEL.WEIGHTS", path, "SEED", 9)
    network = build_network(cfg, 3)
    head = network.fc.weight.clone()
    load_initial_weights(network, cfg, tmp_path, ["x", "y", "z"])
    assert torch.equal(network.fc.weight, head)
    assert torch.equal(network.layer4[1].conv2.weight, averaged.layer4[1].conv2.weight)
    report = json.loads((tmp_path / "weights_report.json").read_text())
    assert set(report["unexpected"]) == {"fc.weight", "fc.bias"} and not report["missing"]


def test_a_kept_head_must_be_of_the_same_classes(checkpoint, tmp_path):
    path, averaged = checkpoint
    cfg = config("MODEL.WEIGHTS", path, "MODEL.HEAD", "keep")
    network = build_network(cfg, 3)
    load_initial_weights(network, cfg, tmp_path, CLASSES)
    assert torch.equal(network.fc.weight, averaged.fc.weight)
    with pytest.raises(UserError, match=r"(?s)street.*volcano.*MODEL.HEAD new"):
        load_initial_weights(build_network(cfg, 3), cfg, tmp_path, ["beach", "bedroom", "volcano"])
    with pytest.raises(UserError, match=r"fc\.weight"):
        load_initial_weights(build_network(cfg, 4), cfg, tmp_path, [*CLASSES, "volcano"])


def test_se_inserted_by_the_config_leaves_a_plain_classifiers_features_as_they_were(tmp_path):
    plain_cfg = config("MODEL.BACKBONE.ARCHITECTURE", "resnet18")
    plain = stir(build_network(plain_cfg, 3))
    save_checkpoint(
        tmp_path / "plain.pth",
        {**describe(CLASS_FOLDERS, plain_cfg, Index), "iteration": 1, "model": plain.state_dict(), "ema": None},
    )
    words = ["MODEL.WEIGHTS", tmp_path / "plain.pth", "MODEL.HEAD", "keep"]
    cfg = config(*words, "MODEL.SE.INSERT", True)
    network = build_network(cfg, 3)
    load_initial_weights(network, cfg, tmp_path, CLASSES)
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.eval()(image), plain.eval()(image))
    with pytest.raises(UserError, match="MODEL.SE.INSERT"):  # without the switch, the way is named
        load_initial_weights(build_network(config(*words), 3), config(*words), tmp_path, CLASSES)


def test_weights_of_another_preprocessing_are_refused(checkpoint, tmp_path):
    cfg = config("MODEL.WEIGHTS", checkpoint[0], "INPUT.FORMAT", "BGR")
    with pytest.raises(UserError, match=r"(?s)RGB.*BGR|BGR.*RGB"):
        load_initial_weights(build_network(cfg, 3), cfg, tmp_path, CLASSES)
