"""Classifiers written as files and run from them."""

import json

import numpy as np
import pytest
import torch
import torch.utils.cpp_extension  # nncf's quantisation imports it, which lengthens the import path
from PIL import Image

from classification.cam import class_activation_maps
from classification.export.export import export_classifier
from classification.export.graph import ClassifierGraph
from classification.exported import ExportedClassifier, load_exported_classifier
from classification.model import ImageClassifier, build_network
from classification.predict.predictor import Predictor
from classification.task import CLASS_FOLDERS
from classification.trained import load_classifier
from engine.errors import UserError
from engine.export.facts import ExportFacts
from engine.export.formats import FORMATS
from engine.export.options import Options
from engine.inference import for_inference
from engine.train.checkpoint import save_checkpoint
from se_backbones import create_backbone
from tests import exports
from tests.classification.predict.test_predictor import CLASSES, picture, small_config
from tests.se_backbones.networks import randomised

pytestmark = pytest.mark.usefixtures("small_networks")
ARCHITECTURE = ("MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar", "INPUT.TEST_RESIZE", "36", "INPUT.TEST_SIZE", "32")


@pytest.fixture(scope="module", autouse=True)
def each_graph_once():
    with exports.each_graph_once():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    cfg = small_config(*ARCHITECTURE)
    network = randomised(build_network(cfg, len(CLASSES)))
    content = {"task": "classification", "model": network.state_dict(), "config": cfg.dump(), "classes": CLASSES}
    content["thresholds"] = {"at_accuracy": [{"accuracy": 95, "threshold": 0.75, "answered": 40.0}]}
    return save_checkpoint(tmp_path_factory.mktemp("run") / "model_final.pth", content)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        Image.fromarray(picture(40 + number, 60, number)).save(folder / f"{number}.png")
    return tuple(sorted(folder.iterdir()))


def exported(checkpoint, pictures, format, **changes):
    options = Options(checkpoint, format, images=pictures, rounds=2, **changes)
    return export_classifier(options, CLASS_FOLDERS), options.path


def pixels(count=5, size=32):
    numbers = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=numbers)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_answers_as_the_checkpoint(checkpoint, pictures, format):
    report, path = exported(checkpoint, pictures, format, dynamic=("batch",))
    assert report["difference"]["largest_logit"] < 1e-4 < report["difference"]["logits_spread"]
    assert report["difference"]["same_first_class"] == report["difference"]["images"] == 6
    assert report["inputs"] == {"images": ["batch", 3, 32, 32]}
    assert json.loads(path.with_name(path.name + ".json").read_text()) == report
    model = load_classifier(checkpoint)[0]
    ours, cfg, classes = load_exported_classifier(path, "cpu")
    assert classes == CLASSES and cfg.INPUT.TEST_SIZE == 32
    with torch.no_grad():
        for count in (1, 2, 5):
            torch.testing.assert_close(ours(pixels(count)), model(pixels(count)), rtol=1e-4, atol=1e-4)
        expected = class_activation_maps(model.network, model.normalise(pixels()))
    found = ours.activation_maps(pixels())
    assert torch.equal(found.classes[:, :1], expected.classes)
    torch.testing.assert_close(found.maps[:, :1], expected.maps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("crops", ["1", "10"])
def test_a_prediction_from_a_file_is_the_checkpoints(checkpoint, pictures, crops):
    path = exported(checkpoint, pictures, "torch-export", batch_size=2, overrides=["TEST.CROPS", crops])[1]
    model, cfg, classes = load_classifier(checkpoint, overrides=["TEST.CROPS", crops])
    images = [picture(50, 70, seed) for seed in range(3)]  # a batch and a half
    own = Predictor(model, cfg, classes).predict(images)
    predictor = Predictor.from_checkpoint(path, device="cpu", sure=95)
    assert predictor.sure_from == 0.75  # it comes with the file
    theirs = predictor.predict(images)
    for expected, found in zip(own, theirs, strict=True):
        assert (found.classes == expected.classes).all() and found.crop == expected.crop and found.cell == expected.cell
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(found.cam, expected.cam, atol=1e-3)


def test_sizes_vary_where_they_may(checkpoint, pictures):
    path = exported(checkpoint, pictures, "onnx", dynamic=("batch", "size"), output=checkpoint.with_name("any.onnx"))[1]
    model, ours = load_classifier(checkpoint)[0], load_exported_classifier(path, "cpu")[0]
    with torch.no_grad():
        for count, size in ((1, 32), (3, 47), (2, 64)):
            torch.testing.assert_close(ours(pixels(count, size)), model(pixels(count, size)), rtol=1e-4, atol=1e-4)


def test_precisions_are_what_the_file_says(checkpoint, pictures):
    report, path = exported(checkpoint, pictures, "torch-export", precision="bf16")
    assert path.name == "model_final_bf16.pt2" and 0 < report["difference"]["largest_probability"] < 0.05
    model = load_exported_classifier(path, "cpu")[0]
    assert model.session.facts.precision == "bf16"
    dtypes = {tensor.dtype for name, tensor in model.session._function.state_dict().items() if "body" in name}
    assert torch.bfloat16 in dtypes
    assert Predictor.from_checkpoint(path, device="cpu", precision="bf16").predict([picture(40, 40)])
    with pytest.raises(UserError, match="written for, bf16"):
        Predictor.from_checkpoint(path, device="cpu", precision="fp16")


@pytest.mark.parametrize(("format", "int8_gates"), [("onnx", False), ("openvino", False), ("openvino", True)])
def test_int8_looks_at_training_images_and_leaves_the_gates(checkpoint, format, int8_gates, tmp_path, write_scenes):
    data = write_scenes(tmp_path / "data", {"train": 2, "val": 1}, CLASSES)
    output = tmp_path / f"small{FORMATS[format].suffix}"
    report, path = exported(
        checkpoint, (), format, precision="int8", calibration=8, int8_gates=int8_gates, output=output,
        overrides=["DATA.ROOT", str(data), "DATA.TRAIN", "train", "DATA.CACHE", str(tmp_path / "cache")],
    )  # fmt: skip
    difference = report["difference"]
    assert 0 < difference["largest_logit"] < difference["logits_spread"] / 4
    gates = 5  # of two layers
    assert _float_layers(path, format) == (0 if int8_gates else 2 * gates)


def _float_layers(path, format):
    """How many fully connected layers have weights that are not quantised."""
    if format == "openvino":
        import openvino

        layers = [op for op in openvino.Core().read_model(path).get_ordered_ops() if op.get_type_name() == "MatMul"]
        return sum(op.input_value(1).get_node().get_type_name() == "Constant" for op in layers)
    import onnx

    graph = onnx.load(path).graph
    plain = {tensor.name for tensor in graph.initializer}
    return sum(node.op_type in ("Gemm", "MatMul") and node.input[1] in plain for node in graph.node)


class Stub:
    """A session of a network with two classes, of three images at a time, without activation maps."""

    device = torch.device("cpu")

    def __init__(self):
        self.facts = ExportFacts(
            "classification", "any", True, "fp32", {"images": [3, 3, 4, 4]}, ["logits"], ["a", "b"], "", {},
            {"stride": 4}, {},
        )  # fmt: skip
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(len(images))
        return [images.float().flatten(1)[:, :2]]


def test_a_file_of_three_images_takes_any_number_in_parts():
    session = Stub()
    images = pixels(7, 4)
    assert torch.equal(ExportedClassifier(session)(images), images.float().flatten(1)[:, :2])
    assert session.sizes == [3, 3, 3]


def test_a_file_without_activation_maps_has_empty_ones():
    found = ExportedClassifier(Stub()).activation_maps(pixels(2, 4))
    assert found.maps.shape == (2, 1, 1, 1) and not found.maps.any()
    assert torch.equal(found.classes[:, 0], found.logits.argmax(1))


def test_the_map_is_that_of_the_likeliest_class_that_has_one(checkpoint):
    class Five(Stub):
        def __call__(self, images):
            logits = torch.tensor([[0.1, 0.5, 0.3]] * 3)
            return [logits, torch.tensor([10.0, 20.0]).view(1, 2, 1, 1).expand(3, 2, 1, 1)]  # of classes 1 and 2

    found = ExportedClassifier(Five()).activation_maps(pixels(3, 4), torch.tensor([[0, 2], [1, 0], [0, 0]]))
    assert found.classes[:, 0].tolist() == [2, 1, 1] and found.maps.flatten().tolist() == [20, 10, 10]


def test_a_network_whose_classifier_is_not_linear_has_logits_alone():
    with torch.device("meta"):
        model = ImageClassifier(create_backbone("se_vgg16", 3), small_config())
        assert ClassifierGraph(model).outputs == ("logits",)
        assert [tuple(x.shape) for x in ClassifierGraph(model.eval())(torch.zeros(2, 3, 64, 64))] == [(2, 3)]


def test_a_graph_is_fused(checkpoint):
    model = for_inference(load_classifier(checkpoint)[0])
    assert not [module for module in ClassifierGraph(model).modules() if isinstance(module, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ()}, "or --images PATH"),
        ({"dynamic": ("colour",)}, "batch and size"),
        ({"overrides": ["INPUT.TEST_SIZE", "0"]}, "--size HxW"),
        ({"precision": "int8"}, "cannot hold int8"),
        ({"weights": "nowhere.pth"}, "no checkpoint"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(checkpoint, pictures, changes, message):
    before = sorted(checkpoint.parent.iterdir())
    options = {"weights": checkpoint, "format": "torch-export", "images": pictures, **changes}
    with pytest.raises(UserError, match=message):
        export_classifier(Options(**options), CLASS_FOLDERS)
    assert sorted(checkpoint.parent.iterdir()) == before
