"""A classifier's gates on a validation set."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from classification.gates import look_at_classifier
from classification.images.transforms import TestTransform
from classification.model import build_network
from classification.task import CLASS_FOLDERS
from classification.trained import load_classifier
from engine.errors import UserError
from engine.gates.options import Options
from engine.images.reading import read_image
from engine.train.checkpoint import save_checkpoint
from tests.classification.predict.test_predictor import picture, small_config
from tests.se_backbones.networks import randomised

CLASSES = ["cat", "dog"]
WORDS = ["INPUT.TEST_RESIZE", "36", "INPUT.TEST_SIZE", "32", "TEST.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0"]


def checkpoint(folder, architecture="se_resnet20_cifar", **change):
    cfg = small_config("MODEL.BACKBONE.ARCHITECTURE", architecture, *WORDS)
    content = {"task": "classification", "model": randomised(build_network(cfg, 2)).state_dict(), "config": cfg.dump()}
    return save_checkpoint(folder / "model_final.pth", {**content, "classes": CLASSES, **change})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five cats and four dogs, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("cat", 5), ("dog", 4)):
        (folder / "val" / name).mkdir(parents=True)
        for number in range(count):
            place = folder / "val" / name / f"{number}.png"
            Image.fromarray(picture(40, 60, number + 10 * (name == "dog"))).save(place)
    (folder / "val" / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return folder


def test_gates_are_those_of_the_images_by_their_class(run, data, tmp_path, caplog):
    found = look_at_classifier(Options(run, data, tmp_path / "out", device="cpu"), CLASS_FOLDERS)
    assert json.loads((tmp_path / "out" / "gates.json").read_text()) == found
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"gates.json", "summary.html", "plots"}
    assert (found["images"], found["of_images"]) == (9, 10)
    assert (found["classes"], found["images_of_classes"]) == (CLASSES, [5, 4])
    assert "broken.jpg" in caplog.text and "left out" in caplog.text
    # By hand, one image at a time.
    model, cfg, _ = load_classifier(run, None, "cpu")
    transform, site = TestTransform(cfg), model.network.se_sites()[-1]
    seen = []
    site.gate.register_forward_hook(lambda module, inputs, gate: seen.append(gate[0, :, 0, 0].numpy()))
    means = []
    for name in CLASSES:
        seen.clear()
        for path in sorted((data / "val" / name).glob("*.png")):
            with torch.inference_mode():
                model(torch.from_numpy(transform(read_image(path))).permute(2, 0, 1)[None])
        means.append(np.mean(seen, axis=0))
    gate = found["gates"][-1]
    assert (gate["path"], gate["images"]) == (site.path, 9)
    np.testing.assert_allclose(gate["by_class"]["mean"], means, atol=2e-5)


def test_some_images_are_evenly_over_the_classes_and_one_crop_is_looked_at(run, data, tmp_path):
    options = Options(run, data, tmp_path, images=4, device="cpu", overrides=["TEST.CROPS", "10"])
    found = look_at_classifier(options, CLASS_FOLDERS)
    assert (found["images"], found["images_of_classes"]) == (4, [2, 2])


def test_what_cannot_be_looked_at_is_said_and_nothing_is_written(run, data, tmp_path):
    def refused(weights=run, root=data, output=tmp_path / "out", **change):
        with pytest.raises(UserError) as error:
            look_at_classifier(Options(weights, root, output, device="cpu", **change), CLASS_FOLDERS)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    (tmp_path / "plain").mkdir()
    plain = checkpoint(tmp_path / "plain", "resnet20_cifar")
    assert "resnet20_cifar has no SE here, so there is no gate to look at" in refused(plain)
    assert str(data / "nowhere") in refused(root=data / "nowhere")
    assert "DATA.ROOT is empty" in refused(root=None)
    assert "DATA.VAL is empty" in refused(overrides=["DATA.VAL", ""])
    assert "is a file; name another folder" in refused(output=run / "below")
    assert "1 image or more" in refused(images=0)
    (tmp_path / "other").mkdir()
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other" / "w.pth")
    assert "no checkpoint of this package" in refused(tmp_path / "other" / "w.pth")


def test_a_set_of_which_no_image_can_be_read_is_named(run, tmp_path):
    (tmp_path / "val" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(UserError, match="the gate at stage1.unit1 saw none of 1 images"):
        look_at_classifier(Options(run, tmp_path, tmp_path / "out", device="cpu"), CLASS_FOLDERS)
