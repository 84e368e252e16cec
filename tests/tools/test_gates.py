"""The gates of a classifier and of a detector, through the command line."""

import json

import pytest
from PIL import Image

from classification.model import build_network
from engine.train.checkpoint import save_checkpoint
from tests.classification.predict.test_predictor import picture, small_config
from tests.detection.conftest import shapes, tiny  # noqa: F401  (fixtures)
from tests.detection.test_gates import detector  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A run's folder with model_final.pth, and its data beside."""
    folder = tmp_path_factory.mktemp("scenes")
    for number, name in enumerate(("coast", "street", "street")):
        (folder / "data" / "val" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(40, 50, number)).save(folder / "data" / "val" / name / f"{number}.png")
    words = "MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar", "INPUT.TEST_SIZE", "32", "DATALOADER.NUM_WORKERS", "0"
    cfg = small_config(*words)
    content = {"task": "classification", "model": build_network(cfg, 2).state_dict(), "config": cfg.dump()}
    save_checkpoint(folder / "model_final.pth", {**content, "classes": ["coast", "street"]})
    return folder


def test_a_classifiers_gates_are_told_beside_its_weights(run, scenes):
    said = run("tools/gates.py", "--weights", scenes / "model_final.pth", "--data", scenes / "data", "--device", "cpu")
    assert "9 gates of se_resnet20_cifar" in said and "3 images (all)" in said and "stage3.unit3" in said
    assert f"done: {scenes / 'gates' / 'summary.html'}" in said
    assert json.loads((scenes / "gates" / "gates.json").read_text())["images_of_classes"] == [1, 2]


def test_a_detectors_gates_are_told_by_the_objects_classes(run, detector, shapes, tmp_path):  # noqa: F811
    words = "--weights", detector("demo.yaml"), "--data", shapes.val_json, "--images", "2", "--output", tmp_path
    said = run("tools/gates.py", *words, "--device", "cpu")
    assert "8 gates of se_resnet18" in said and "2 images (of 7)" in said
    assert "an image counts for each class that it holds objects of" in said
    assert (tmp_path / "summary.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "nowhere.pth"], "no checkpoint at nowhere.pth"),
        (["--data", "nowhere"], "nowhere"),
        (["--images", "0"], "1 image or more"),
        (["DATA.ROOTS", "x"], "DATA.ROOT"),
    ],
)
def test_wrong_words_are_answered_in_one_line(run, scenes, words, message):
    said = run("tools/gates.py", "--weights", scenes / "model_final.pth", "--device", "cpu", *words, code=2)
    assert message in said and "Traceback" not in said
