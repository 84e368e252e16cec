"""Prediction on pictures and files: a real, small, untrained classifier, and a stand-in where files are the point."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classification.config import get_cfg
from classification.evaluation.evaluate import evaluate_classifier
from classification.groups import ClassGroups
from classification.images.transforms import TestTransform
from classification.index.index import make_index
from classification.model import ImageClassifier, build_network
from classification.predict.files import predict_files, prediction_record
from classification.predict.pictures import write_pictures
from classification.predict.predictor import Prediction, Predictor, crop_box
from classification.task import CLASS_FOLDERS
from classification.trained import load_classifier
from engine.errors import UserError
from engine.images.reading import read_image
from engine.predict.video import Video, video_writer
from engine.train.checkpoint import save_checkpoint

ROOT = Path(__file__).resolve().parents[3]
CLASSES = ["bedroom", "coast", "corridor", "mountain", "my_own_scene", "staircase", "street"]


def inside_or_outside(classes):
    return ClassGroups("inside_outside", ("inside", "outside"), tuple(GROUPS.get(name, -1) for name in classes))


GROUPS = {"bedroom": 0, "coast": 1, "corridor": 0, "mountain": 1, "staircase": 0, "street": 1}
TASK = replace(CLASS_FOLDERS, groups=inside_or_outside)


def picture(height, width, seed=0):
    """Coarse random blocks: structure at every scale."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC))


def small_config(*overrides):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.ARCHITECTURE = "se_resnet18"
    cfg.INPUT.TEST_RESIZE, cfg.INPUT.TEST_SIZE = 80, 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.merge_from_list(list(overrides))
    return cfg


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    cfg = small_config()
    network = build_network(cfg, len(CLASSES))
    with torch.no_grad():  # answers that differ from picture to picture
        network.fc.weight.copy_(torch.randn(network.fc.weight.shape, generator=torch.Generator().manual_seed(1)))
        pictures = np.stack([picture(64, 64, seed) for seed in range(6)])
        answers = ImageClassifier(network.eval(), cfg)(torch.from_numpy(pictures).permute(0, 3, 1, 2))
        network.fc.bias.sub_(answers.mean(0))
    content = {"task": "classification", "model": network.state_dict(), "config": cfg.dump(), "classes": CLASSES}
    return save_checkpoint(tmp_path_factory.mktemp("run") / "model_final.pth", content)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint, device="cpu")


def with_config(predictor, *overrides, classes=CLASSES, task=CLASS_FOLDERS):
    cfg = small_config(*overrides)
    return Predictor(ImageClassifier(predictor.model.network, cfg), cfg, classes, task)


class StandIn:
    """Says the same of every picture."""

    classes, device, task, max_pixels, sure_from = CLASSES, torch.device("cpu"), CLASS_FOLDERS, 10**6, None

    def __init__(self, interrupt_at=None):
        self.seen, self.interrupt_at = 0, interrupt_at

    def predict(self, images):
        found = []
        for image in images:
            if self.seen == self.interrupt_at:
                raise KeyboardInterrupt
            self.seen += 1
            side = min(image.shape[:2])
            cam = np.eye(2, dtype=np.float32)
            shares = np.array([0.6, 0.2, 0.1, 0.05, 0.01])
            found.append(
                Prediction(
                    np.array([3, 1, 6, 0, 2]),
                    shares,
                    {"inside": 0.125, "outside": 0.875},
                    cam,
                    (0, 0, side, side),
                    side / 2,
                )
            )
        return found


def records(output):
    return json.loads((output / "class_predictions.json").read_text())


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def test_a_batch_of_any_sizes_equals_one_by_one(predictor):
    sizes = [(100, 140), (100, 140), (300, 200), (64, 64), (101, 139), (40, 400)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    together = predictor.predict(images)
    assert len({int(found.classes[0]) for found in together}) > 1
    for image, found in zip(images, together, strict=True):
        (alone,) = predictor.predict([image])
        np.testing.assert_array_equal(found.classes, alone.classes)
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(found.cam, alone.cam, atol=1e-4)
        assert found.crop == alone.crop and found.cam.shape == (2, 2)
        assert len(found.classes) == 5 and (np.diff(found.probabilities) <= 0).all()
    assert predictor.predict([]) == []


@pytest.mark.parametrize("crops", ["1", "10"])
def test_a_file_gets_the_answer_of_the_evaluation(predictor, tmp_path, crops):
    predictor = with_config(predictor, "TEST.CROPS", crops)
    paths = [save(tmp_path / f"{n}.jpg", picture(170 + 90 * n, 260, n)) for n in range(3)]
    index = make_index([path.name for path in paths], [0, 1, 2], CLASSES, tmp_path)
    with torch.inference_mode():
        evaluate_classifier(predictor.model, index, predictor.cfg, tmp_path)
    for record, path in zip(json.loads((tmp_path / "class_predictions.json").read_text()), paths, strict=True):
        (found,) = predictor.predict([read_image(path)])
        names, shares = zip(*record["top"], strict=True)
        assert [CLASSES[index] for index in found.classes] == list(names)
        np.testing.assert_allclose(found.probabilities, shares, atol=2e-5)


def test_channel_order_follows_the_config(predictor):
    bgr = with_config(predictor, "INPUT.FORMAT", "BGR")
    image = picture(96, 128)
    (direct,), (turned,) = predictor.predict([image]), bgr.predict([image[:, :, ::-1].copy()])
    np.testing.assert_allclose(direct.probabilities, turned.probabilities, atol=1e-6)
    assert not np.allclose(direct.probabilities, bgr.predict([image])[0].probabilities, atol=1e-3)


@pytest.mark.parametrize("crops", ["1", "10"])
def test_the_map_adds_up_to_the_first_class(predictor, crops):
    predictor = with_config(predictor, "TEST.CROPS", crops)
    image = picture(100, 140, 4)
    (found,) = predictor.predict([image])
    network = predictor.model.network
    with torch.inference_mode():
        pixels = TestTransform(small_config())(image)
        logits = predictor.model(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
        first = int(found.classes[0])
        expected = float(logits[first] - network.fc.bias[first])
    assert found.cam.mean() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [(720, 960), (300, 200), (90, 90), (50, 220)])
@pytest.mark.parametrize("resize", [80, 64, 0])
def test_the_crop_is_where_the_evaluation_cuts(size, resize):
    """Read from what comes out for a picture whose colours are coordinates."""
    height, width = size
    cfg = small_config("INPUT.TEST_RESIZE", resize)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).round()[None]
    image[..., 1] = np.linspace(0, 255, height).round()[:, None]
    crop = TestTransform(cfg)(image).astype(float)
    x0, y0, x1, y1 = crop_box(height, width, cfg)
    assert x1 - x0 == pytest.approx(y1 - y0) and 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    half = (x1 - x0) / len(crop) / 2  # the first and the last pixel's centres
    for value, where, length in (
        (crop[32, 0, 0], x0 + half, width),
        (crop[32, -1, 0], x1 - half, width),
        (crop[0, 32, 1], y0 + half, height),
        (crop[-1, 32, 1], y1 - half, height),
    ):
        # Rounding moves a crop by up to a pixel of its own, and a colour is one of 256 coordinates.
        assert value / 255 * (length - 1) + 0.5 == pytest.approx(where, abs=2 * half + length / 255)


def test_the_map_lies_where_the_network_looks(predictor, checkpoint):
    """The place that a cell of res5 depends on most, by the gradient of its channels, against the place where
    `activation` shows that cell."""
    network, size, (row, column) = load_classifier(checkpoint, None, "cpu")[0].network, 160, (2, 1)
    total = torch.zeros(size, size)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(1, 3, size, size, generator=generator).requires_grad_()
        cell = network.forward_features(images)["res5"][0, :, row, column]
        (gradient,) = torch.autograd.grad((cell * torch.randn(cell.shape, generator=generator)).sum(), images)
        total += gradient[0].pow(2).sum(0)
    core = torch.nn.functional.avg_pool2d(total[None, None], 9, 1, 4)[0, 0]
    core = core * (core > 0.3 * core.max())  # its tails are cut off by the picture's edges
    centre = [float((core.sum(1 - axis) * (torch.arange(size) + 0.5)).sum() / core.sum()) for axis in (0, 1)]

    cam = np.zeros((5, 5), np.float32)
    cam[row, column] = 1
    found = Prediction(np.arange(5), np.full(5, 0.2), {}, cam, (100, 50, 100 + 2 * size, 50 + 2 * size), 64)
    laid = found.activation(400, 500)  # a picture in which the crop begins at (50, 100), twice as large
    y, x = np.unravel_index(np.nanargmax(laid), laid.shape)
    assert (y - 50) / 2 == pytest.approx(centre[0], abs=6) and (x - 100) / 2 == pytest.approx(centre[1], abs=6)


def test_the_map_covers_the_crop_and_nothing_else():
    cam = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    found = Prediction(np.arange(5), np.full(5, 0.2), {}, cam, (30, 20, 254, 244), 32)
    laid = found.activation(260, 300)
    assert laid.shape == (260, 300) and laid.dtype == np.float32
    seen = ~np.isnan(laid)
    assert seen[20:244, 30:254].all() and seen.sum() == 224 * 224
    np.testing.assert_allclose(found.activation(780, 900, 3.0)[1::3, 1::3][seen], laid[seen], atol=1e-4)
    flat = Prediction(found.classes, found.probabilities, {}, np.full((7, 7), 2.5, np.float32), found.crop, 32)
    np.testing.assert_allclose(flat.activation(260, 300)[seen], 2.5, rtol=1e-5)


def test_groups_of_classes(predictor):
    image = picture(100, 140, 2)
    (found,) = with_config(predictor, task=TASK).predict([image])
    with torch.inference_mode():
        pixels = torch.from_numpy(TestTransform(predictor.cfg)(image)).permute(2, 0, 1)[None]
        shares = predictor.model(pixels).softmax(1)[0].numpy()
    inside, outside = shares[[0, 2, 5]].sum(), shares[[1, 3, 6]].sum()
    assert found.groups == pytest.approx(
        {"inside": inside / (inside + outside), "outside": outside / (inside + outside)}, rel=1e-4
    )
    assert found.group == ("inside" if inside > outside else "outside")
    names = [f"place_{n}" for n in range(len(CLASSES))]
    (unknown,) = with_config(predictor, classes=names, task=TASK).predict([image])
    assert unknown.group is None and set(prediction_record(unknown, names, TASK)) == {"top"}
    (plain,) = predictor.predict([image])
    assert plain.groups == {}


def test_wrong_pictures_and_diverged_weights_are_refused(predictor, checkpoint):
    for image in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected a picture"):
            predictor.predict([image])
    diverged = Predictor.from_checkpoint(checkpoint, device="cpu")
    with torch.no_grad():
        diverged.model.network.fc.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        diverged.predict([picture(64, 64)])


def test_files_of_every_kind(tmp_path, capsys):
    save(tmp_path / "in" / "wide.png", picture(200, 800))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"corrupt")
    with video_writer(tmp_path / "in" / "walk.mp4", 10) as append:
        for seed in range(3):
            append(picture(96, 128, seed))
    report = predict_files(StandIn(), [tmp_path / "in"], tmp_path / "out", batch_size=2)
    assert report.exit_code == 1 and report.pictures == 4 and len(report.problems) == 1
    assert "broken.jpg" in capsys.readouterr().err
    frames, wide = records(tmp_path / "out")[:-1], records(tmp_path / "out")[-1]
    assert [frame["frame"] for frame in frames] == [0, 1, 2]
    assert wide == {
        "file": str(tmp_path / "in" / "wide.png"),
        "picture": "wide.png",
        "width": 800,
        "height": 200,
        "top": [
            {"class": name, "probability": share}
            for name, share in zip(
                ["mountain", "coast", "street", "bedroom", "corridor"], [0.6, 0.2, 0.1, 0.05, 0.01], strict=True
            )
        ],
        "groups": {"inside": 0.125, "outside": 0.875},
    }
    with Image.open(tmp_path / "out" / "wide.png") as drawn:
        assert drawn.width == 1440 and drawn.height > 360  # enlarged for legibility, and with a panel below
    assert len(list(Video(tmp_path / "out" / "walk.mp4"))) == 3


def test_an_interruption_keeps_what_was_done(tmp_path):
    for index in range(5):
        save(tmp_path / "in" / f"{index}.png", picture(40, 40))
    report = predict_files(StandIn(interrupt_at=3), [tmp_path / "in"], tmp_path / "out")
    assert report.exit_code == 130 and len(records(tmp_path / "out")) == 3
    assert predict_files(StandIn(), [tmp_path / "in"], tmp_path / "out", max_images=2).pictures == 2


@pytest.mark.parametrize("sure_from, sure", [(None, None), (0.0, True), (1.0, False)])
def test_what_is_not_sure_is_marked(tmp_path, sure_from, sure):
    source, predictor = save(tmp_path / "a.png", picture(400, 400)), StandIn()
    predictor.sure_from = sure_from
    predict_files(predictor, [source], tmp_path / "out")
    (record,) = records(tmp_path / "out")
    assert record.get("sure") is sure


def test_a_run_folder_is_no_place_to_write_to(tmp_path):
    """An evaluation leaves a file of the same name there."""
    source = save(tmp_path / "a.png", picture(40, 40))
    (tmp_path / "run").mkdir()
    evaluated = '[{"file": "a.png", "label": "coast", "top": [["coast", 0.9]]}]'
    (tmp_path / "run" / "class_predictions.json").write_text(evaluated)
    with pytest.raises(UserError, match="already there"):
        predict_files(StandIn(), [source], tmp_path / "run")
    assert (tmp_path / "run" / "class_predictions.json").read_text() == evaluated


def test_a_runs_pictures(predictor, tmp_path, caplog):
    names = [f"{name}/{number:06d}.jpg" for name in CLASSES for number in range(2)]
    for seed, name in enumerate(names):
        save(tmp_path / "val" / name, picture(64, 90, seed))
    (tmp_path / "val" / names[-1]).write_bytes(b"corrupt")
    index = make_index(names, [n // 2 for n in range(len(names))], CLASSES, tmp_path / "val")
    paths = write_pictures(tmp_path / "run", predictor.model, index, predictor.cfg, count=4)
    assert sorted((tmp_path / "run" / "predictions").iterdir()) == sorted(paths)
    assert [path.name for path in paths] == ["bedroom_000000.jpg", "corridor_000000.jpg", "my_own_scene_000001.jpg"]
    assert names[-1] in caplog.text
    with Image.open(paths[0]) as drawn:
        assert drawn.width > 2 * 360  # truth and prediction side by side
    unlabelled = make_index(names[:2], [-1, -1], CLASSES, tmp_path / "val")
    assert len(write_pictures(tmp_path / "other", predictor.model, unlabelled, predictor.cfg)) == 2


def command(*arguments):
    return [sys.executable, str(ROOT / "tools" / "predict_image.py"), *map(str, arguments)]


def test_the_command_line(tmp_path, checkpoint):
    save(tmp_path / "in" / "a.png", picture(100, 140))
    (tmp_path / "in" / "b.png").write_bytes(b"corrupt")
    arguments = ("--weights", checkpoint, tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu")
    done = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "b.png" in done.stderr and "done: 1 pictures, 1 inputs with problems" in done.stdout
    (record,) = records(tmp_path / "out")
    assert len(record["top"]) == 5 and {guess["class"] for guess in record["top"]} <= set(CLASSES)


def test_a_real_photograph(predictor, tmp_path):
    data = Path(os.environ.get("SE_DATA", ROOT.parent / "shared" / "data"))
    photo = data / "places365_meta" / "mountains.jpg"
    if not photo.is_file():
        pytest.skip(f"the photograph is not here ({photo}); set SE_DATA to the folder with places365_meta")
    assert predict_files(predictor, [photo], tmp_path / "out").exit_code == 0
    (record,) = records(tmp_path / "out")
    with Image.open(tmp_path / "out" / record["picture"]) as drawn:
        assert drawn.width == record["width"] == 960 and drawn.height > record["height"] == 720


@pytest.fixture
def tool(load_tool):
    return load_tool("predict_image")


def test_the_command_line_says_what_is_wrong(tool, tmp_path):
    with pytest.raises(UserError, match="absent.pth"):
        tool.main(["--weights", str(tmp_path / "absent.pth"), "a.png", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as exit:
        tool.main(["a.png"])
    assert exit.value.code == 2


def test_a_polite_kill_keeps_what_was_done(tool, tmp_path, monkeypatch, capsys):
    class Killed(StandIn):
        def predict(self, images):
            if self.seen == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().predict(images)

    for index in range(6):
        save(tmp_path / "in" / f"{index}.png", picture(40, 40))
    monkeypatch.setattr(Predictor, "from_checkpoint", lambda *arguments, **options: Killed())
    assert tool.main(["--weights", "x", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 130
    assert len(records(tmp_path / "out")) == 3 and "interrupted after 3 pictures" in capsys.readouterr().out
