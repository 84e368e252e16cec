"""Prediction on pictures and files: a real, tiny, untrained detector, and a stand-in where files are the
point."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detection.config import get_cfg
from detection.model import build_detector
from detection.predict.detections import Detections
from detection.predict.files import predict_files
from detection.predict.predictor import Predictor
from engine.errors import UserError
from engine.predict.video import Video, video_writer
from engine.train.checkpoint import add_to_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def picture(height, width, seed=0):
    """Coarse random blocks: structure at every scale a detector looks at."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC))


def small_config(**changes):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.ARCHITECTURE = "se_resnet18"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 64
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    cfg.merge_from_list([word for pair in changes.items() for word in pair])
    return cfg


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    cfg = small_config()
    model = build_detector(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cls_score" in name or "bbox_pred" in name:  # scores and boxes that differ from place to place
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    content = {
        "task": "detection",
        "model": model.state_dict(),
        "config": cfg.dump(),
        "classes": ["red", "green", "blue"],
        "category_ids": [2, 7, 90],
    }
    return save_checkpoint(tmp_path_factory.mktemp("run") / "model_final.pth", content)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor.from_checkpoint(checkpoint, device="cpu", threshold=0.2)


class StandIn:
    """Finds one object in every picture: its middle."""

    classes, category_ids, device, max_pixels = ["thing"], [17], torch.device("cpu"), 10**6

    def __init__(self, interrupt_at=None, with_masks=False):
        self.seen, self.interrupt_at, self.with_masks = 0, interrupt_at, with_masks

    def predict(self, images):
        found = []
        for image in images:
            if self.seen == self.interrupt_at:
                raise KeyboardInterrupt
            self.seen += 1
            height, width = image.shape[:2]
            mask = np.zeros((1, height, width), bool)
            mask[:, height // 4 : height // 2, width // 4 : width // 2] = True
            box = [width / 4, height / 4, width / 2, height / 2]
            found.append(Detections([box], [0.75], [0], mask if self.with_masks else None))
        return found


def records(output):
    return json.loads((output / "predictions.json").read_text())


def copy_of(checkpoint, path):
    path.write_bytes(checkpoint.read_bytes())
    return path


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def same(a, b):
    assert len(a) == len(b)
    np.testing.assert_array_equal(a.classes, b.classes)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_a_batch_of_any_sizes_equals_one_by_one(predictor):
    sizes = [(100, 140), (100, 140), (300, 200), (64, 64), (101, 139), (40, 400)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    together = predictor.predict(images)
    assert sum(map(len, together)) > 10
    for image, found in zip(images, together, strict=True):
        same(found, predictor.predict([image])[0])
    assert predictor.predict([]) == []


def test_boxes_are_in_the_pixels_of_the_original(predictor):
    """A picture and the same picture three times as large are one input after resizing: boxes scale with
    it."""
    small = picture(96, 128)
    large = np.kron(small, np.ones((3, 3, 1), np.uint8))
    for image, found in zip((small, large), predictor.predict([small, large]), strict=True):
        height, width = image.shape[:2]
        assert len(found) and found.masks is None and found.boxes.dtype == np.float32
        assert (found.boxes >= 0).all() and (found.boxes <= [width, height, width, height]).all()
        assert found.boxes[:, 2].max() > 0.6 * width  # not left at the size of the model's input
        assert (found.scores >= 0.2).all() and (np.diff(found.scores) <= 0).all()


def test_channel_order_follows_the_config(checkpoint):
    rgb = Predictor.from_checkpoint(checkpoint, device="cpu")
    bgr_cfg = rgb.cfg.clone()
    bgr_cfg.defrost()
    bgr_cfg.INPUT.FORMAT = "BGR"
    bgr = Predictor(rgb.model, bgr_cfg, rgb.classes)
    image = picture(96, 128)
    assert torch.equal(bgr._prepare(image)["image"], rgb._prepare(image)["image"].flip(0))


def test_a_low_threshold_reaches_below_the_detectors_own(checkpoint):
    image = [picture(96, 128)]
    low, high = (Predictor.from_checkpoint(checkpoint, None, "cpu", t).predict(image)[0] for t in (0.01, 0.5))
    assert low.scores.min() < 0.05 and (high.scores >= 0.5).all() and len(low) > len(high)
    count = int((low.scores >= 0.5).sum())
    same(low.select(np.arange(count)), high)
    with pytest.raises(UserError, match="between 0 and 1"):
        Predictor.from_checkpoint(checkpoint, None, "cpu", 50)


def test_a_score_that_is_the_threshold_counts(checkpoint, predictor):
    """The detector's own threshold, which ours stands in for, would leave it out."""
    image = [picture(96, 128)]
    (everything,) = predictor.predict(image)
    for score in everything.scores[[0, len(everything) // 2]].tolist():
        (found,) = Predictor.from_checkpoint(checkpoint, None, "cpu", score).predict(image)
        same(found, everything.select(everything.scores >= np.float32(score)))


def test_each_class_has_its_own_threshold_where_the_checkpoint_states_them(checkpoint, predictor, tmp_path):
    image = [picture(96, 128)]
    stated = copy_of(checkpoint, tmp_path / "stated.pth")
    classes = {"red": {"threshold": 0.3}, "green": {"threshold": 0.25}, "blue": {"threshold": None}}
    add_to_checkpoint(stated, thresholds={"otherwise": 0.9, "classes": classes})
    with pytest.raises(UserError, match="model_final.pth states no thresholds"):
        Predictor.from_checkpoint(checkpoint, device="cpu", threshold="best")
    (everything,) = predictor.predict(image)
    (found,) = Predictor.from_checkpoint(stated, device="cpu", threshold="best").predict(image)
    kept = everything.scores >= np.array([0.3, 0.25, 0.9])[everything.classes]
    assert 0 < kept.sum() < len(everything)
    same(found, everything.select(kept))


def test_wrong_pictures_are_refused(predictor):
    for image in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8)):
        with pytest.raises(ValueError, match="expected a picture"):
            predictor.predict([image])


def test_files_boxes_map_back_to_the_original_size(tmp_path):
    save(tmp_path / "in" / "wide.png", picture(200, 800))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(100, 300)).save(tmp_path / "in" / "turned.jpg", exif=exif)
    report = predict_files(StandIn(with_masks=True), [tmp_path / "in"], tmp_path / "out")
    assert report.exit_code == 0 and (report.pictures, report.objects) == (2, 2)
    turned, wide = records(tmp_path / "out")
    assert (turned["width"], turned["height"]) == (100, 300) and (wide["width"], wide["height"]) == (800, 200)
    (found,) = wide["detections"]
    assert found["bbox"] == [200, 50, 200, 50] and found["score"] == 0.75
    assert (found["category"], found["category_id"]) == ("thing", 17)
    assert found["segmentation"]["size"] == [200, 800]
    with Image.open(tmp_path / "out" / turned["picture"]) as drawn:
        assert drawn.width * 3 == drawn.height  # upright, and enlarged for legibility
    assert wide["file"] == str(tmp_path / "in" / "wide.png") and "frame" not in wide


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_corrupt_picture_in_the_middle_leaves_the_others(tmp_path, capsys, batch_size):
    for name in "aceg":
        save(tmp_path / "in" / f"{name}.png", picture(50, 70))
    (tmp_path / "in" / "d.png").write_bytes(b"corrupt")
    (tmp_path / "in" / "f.mp4").write_bytes(b"corrupt")
    report = predict_files(StandIn(), [tmp_path / "in"], tmp_path / "out", batch_size)
    assert report.exit_code == 1 and report.pictures == 4 and len(report.problems) == 2
    assert [Path(record["file"]).stem for record in records(tmp_path / "out")] == list("aceg")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.png", "c.png", "e.png", "g.png", "predictions.json"]
    said = capsys.readouterr().err
    assert "d.png" in said and "f.mp4" in said and "a.png" not in said


def test_a_video_gives_a_video_and_a_record_a_frame(tmp_path):
    with video_writer(tmp_path / "clip.mp4", 10) as append:
        for seed in range(5):
            append(picture(96, 128, seed))
    report = predict_files(StandIn(), [tmp_path / "clip.mp4"], tmp_path / "out", batch_size=2)
    assert report.exit_code == 0 and report.pictures == 5
    assert [record["frame"] for record in records(tmp_path / "out")] == [0, 1, 2, 3, 4]
    assert {(record["width"], record["height"]) for record in records(tmp_path / "out")} == {(128, 96)}
    assert len(list(Video(tmp_path / "out" / "clip.mp4"))) == 5


def test_max_images_counts_pictures_and_frames(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.png", picture(40, 40))
    with video_writer(tmp_path / "c.mp4", 10) as append:
        for seed in range(5):
            append(picture(64, 64, seed))
    report = predict_files(StandIn(), [tmp_path], tmp_path / "out", 4, max_images=4)
    assert report.exit_code == 0 and [r.get("frame") for r in records(tmp_path / "out")] == [None, None, 0, 1]
    assert predict_files(StandIn(), [tmp_path], tmp_path / "out", 4, max_images=1).pictures == 1
    for wrong in ({"batch_size": 0}, {"max_images": 0}):
        with pytest.raises(UserError, match="at least 1"):
            predict_files(StandIn(), [tmp_path], tmp_path / "out", **wrong)


def test_an_interruption_keeps_what_was_done(tmp_path):
    for index in range(6):
        save(tmp_path / "in" / f"{index}.png", picture(40, 40))
    report = predict_files(StandIn(interrupt_at=3), [tmp_path / "in"], tmp_path / "out")
    assert report.interrupted and report.exit_code == 130
    assert [Path(record["file"]).name for record in records(tmp_path / "out")] == ["0.png", "1.png", "2.png"]
    with video_writer(tmp_path / "clip.mp4", 10) as append:
        for seed in range(6):
            append(picture(64, 64, seed))
    predict_files(StandIn(interrupt_at=4), [tmp_path / "clip.mp4"], tmp_path / "video")
    assert len(records(tmp_path / "video")) == 4
    assert len(list(Video(tmp_path / "video" / "clip.mp4"))) == 4


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_picture_that_fails_is_named_and_the_others_go_on(tmp_path, batch_size):
    class Failing(StandIn):
        def predict(self, images):
            if any(image.shape == (50, 40, 3) for image in images):
                raise RuntimeError("out of memory")
            return super().predict(images)

    for index in range(4):
        save(tmp_path / "in" / f"{index}.png", picture(50 if index == 2 else 40, 40))
    report = predict_files(Failing(), [tmp_path / "in"], tmp_path / "out", batch_size)
    assert [Path(record["file"]).name for record in records(tmp_path / "out")] == ["0.png", "1.png", "3.png"]
    assert report.problems == [f"skipped {tmp_path}/in/2.png: RuntimeError: out of memory"] and report.exit_code == 1


def test_where_every_picture_fails_the_failure_is_not_hidden(tmp_path):
    class Failing(StandIn):
        def predict(self, images):
            raise RuntimeError("a bug")

    save(tmp_path / "in" / "a.png", picture(40, 40))
    with pytest.raises(RuntimeError, match="a bug"):
        predict_files(Failing(), [tmp_path / "in"], tmp_path / "out")
    assert records(tmp_path / "out") == []


def test_inputs_and_foreign_files_stay_untouched(tmp_path):
    source = save(tmp_path / "in" / "a.png", picture(40, 40))
    before = source.read_bytes()
    with pytest.raises(UserError, match="choose another output"):
        predict_files(StandIn(), [tmp_path / "in"], tmp_path / "in")
    foreign = save(tmp_path / "album" / "a.png", picture(9, 9)).read_bytes()
    with pytest.raises(UserError, match="already there"):
        predict_files(StandIn(), [tmp_path / "in"], tmp_path / "album")
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "predictions.json").write_text('{"annotations": []}')
    with pytest.raises(UserError, match="already there"):
        predict_files(StandIn(), [tmp_path / "in"], tmp_path / "coco")
    assert (tmp_path / "coco" / "predictions.json").read_text() == '{"annotations": []}'
    assert source.read_bytes() == before and (tmp_path / "album" / "a.png").read_bytes() == foreign
    for _ in range(2):  # writing again over our own results is fine
        assert predict_files(StandIn(), [tmp_path / "in"], tmp_path / "in" / "out").pictures == 1
    assert source.read_bytes() == before


def test_equal_names_in_different_folders_all_get_their_picture(tmp_path):
    inputs = [save(tmp_path / folder / "x" / "a.png", picture(40, 40)).parent for folder in ("one", "two")]
    predict_files(StandIn(), inputs, tmp_path / "out")
    pictures = [record["picture"] for record in records(tmp_path / "out")]
    assert len(set(pictures)) == 2 and all((tmp_path / "out" / name).is_file() for name in pictures)


def test_a_place_that_cannot_be_written_is_a_clear_mistake(tmp_path):
    source = save(tmp_path / "a.png", picture(40, 40))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file/out"):
        predict_files(StandIn(), [source], tmp_path / "file" / "out")


def test_objects_become_coco_like_records():
    found = Detections([[1, 2, 4, 8], [0, 0, 5, 5]], [0.9, 0.8], [1, 0])
    assert found.records(["cat", "dog"])[0] == {
        "bbox": [1.0, 2.0, 3.0, 6.0], "category": "dog", "category_id": 1, "score": 0.9,
    }  # fmt: skip
    assert [r["category_id"] for r in found.records(["cat", "dog"], [3, 90])] == [90, 3]
    assert [r["category_id"] for r in found.records(["cat", "dog"], ["c1", "c2"])] == ["c2", "c1"]
    with pytest.raises(ValueError, match="2 boxes but 1 scores"):
        Detections([[1, 2, 4, 8], [0, 0, 5, 5]], [0.9], [1, 0])


def command(*arguments):
    return [sys.executable, str(ROOT / "tools" / "predict.py"), *map(str, arguments)]


def test_the_command_line(tmp_path, checkpoint):
    save(tmp_path / "in" / "a.png", picture(100, 140))
    (tmp_path / "in" / "b.png").write_bytes(b"corrupt")
    arguments = ("--weights", checkpoint, tmp_path / "in", "--output", tmp_path / "out", "--threshold", "0.2")
    done = subprocess.run(command(*arguments, "--device", "cpu"), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "b.png" in done.stderr and "predictions.json" in done.stdout
    (record,) = records(tmp_path / "out")
    assert {found["category_id"] for found in record["detections"]} <= {2, 7, 90} and record["detections"]


@pytest.fixture
def tool(load_tool):
    return load_tool("predict")


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
    monkeypatch.setattr(Predictor, "from_checkpoint", lambda *arguments: Killed())
    assert tool.main(["--weights", "x", str(tmp_path / "in"), "--output", str(tmp_path / "out")]) == 130
    assert len(records(tmp_path / "out")) == 3 and "interrupted after 3 objects" in capsys.readouterr().out
