"""A checkpoint written for another runtime, and predictions out of what was written, through the real command lines."""

import json

import pytest
from PIL import Image

from classification.model import build_network
from engine.train.checkpoint import save_checkpoint
from tests.classification.predict.test_predictor import picture, small_config

CLASSES = ["bedroom", "coast", "street"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With places.pth, a classifier's checkpoint, and a picture."""
    folder = tmp_path_factory.mktemp("export")
    cfg = small_config("MODEL.BACKBONE.ARCHITECTURE", "se_resnet20_cifar", "INPUT.TEST_SIZE", "32")
    content = {"task": "places365", "model": build_network(cfg, 3).state_dict(), "config": cfg.dump()}
    save_checkpoint(folder / "places.pth", {**content, "classes": CLASSES})
    Image.fromarray(picture(60, 80)).save(folder / "one.png")
    return folder


def test_a_file_is_written_compared_and_predicted_with(run, folder):
    said = run(
        "tools/export.py", "--weights", folder / "places.pth", "--format", "torch-export",
        "--images", folder / "one.png", "--dynamic", "batch",
    )  # fmt: skip
    assert "se_resnet20_cifar as torch-export, fp32: images batch x 3 x 32 x 32" in said
    assert f"done: {folder / 'places.pt2'}" in said and (folder / "places.pt2.json").is_file()
    found = {}
    for weights in ("places.pth", "places.pt2"):
        words = "--weights", folder / weights, "--output", folder / weights[-3:], "--device", "cpu"
        run("tools/predict_scene.py", *words, folder / "one.png")
        found[weights] = json.loads((folder / weights[-3:] / "scene_predictions.json").read_text())[0]
    own, theirs = found.values()
    assert [one["class"] for one in theirs["top"]] == [one["class"] for one in own["top"]]
    assert theirs["indoor_probability"] == pytest.approx(own["indoor_probability"], abs=1e-4)
    assert (folder / "pt2" / own["picture"]).is_file()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--size", "224"], 2, "height x width"),
        (["--batch-size", "0"], 2, "1 or more"),
        (["--format", "tflite"], 2, "invalid choice"),
        (["--precision", "int8"], 2, "cannot hold int8; onnx and openvino can"),
        (["--format", "onnx", "--precision", "bf16"], 2, "cannot hold bf16; openvino and torch-export can"),
        (["--weights", "nowhere.pth"], 2, "no checkpoint at nowhere.pth"),
        ([], 2, "--images PATH"),
    ],
)
def test_wrong_words_are_answered_in_one_line(run, folder, words, code, message):
    given = ["tools/export.py", "--weights", folder / "places.pth", "--format", "torch-export", *words]
    said = run(*given, code=code)
    assert message in said and "Traceback" not in said


def test_another_program_files_are_no_exported_models(run, folder):
    (folder / "other.onnx").write_bytes(b"\x08\x07")
    words = "--weights", folder / "other.onnx", "--output", folder / "other", "--device", "cpu", folder / "one.png"
    said = run("tools/predict_scene.py", *words, code=2)
    assert "other.onnx" in said and "Traceback" not in said
