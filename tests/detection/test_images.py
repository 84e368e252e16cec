"""What a detector sees of a picture: the same in training, evaluation and prediction, and one pixel a side at least."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data import TestSet, TrainingSet
from detection.images import ResizeShortestEdge, TrainingMapper, resize_for_test
from detection.predict.predictor import Predictor
from engine.errors import UserError
from engine.images.reading import read_image

from detectron2.data import DatasetMapper

RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
EXIF = Image.Exif()
EXIF[0x0112] = 6
KINDS = {
    "grey16.png": lambda path: Image.fromarray(RAMP).save(path),
    "rgba.png": lambda path: Image.fromarray(np.dstack([RAMP >> n for n in (8, 7, 6, 8)]).astype(np.uint8)).save(path),
    "la.png": lambda path: Image.fromarray(RAMP.astype(np.uint8)).convert("LA").save(path),
    "palette.gif": lambda path: Image.fromarray((RAMP % 7).astype(np.uint8), "P").save(path, transparency=3),
    "cmyk.jpg": lambda path: Image.fromarray((RAMP >> 8).astype(np.uint8)).convert("CMYK").save(path),
    "turned.jpg": lambda path: Image.fromarray((RAMP >> 8).astype(np.uint8)).save(path, exif=EXIF),
    "one bit.tif": lambda path: Image.fromarray(RAMP > 9000).save(path),
}


def record(path, box=(1, 1, 20, 20)):
    height, width = read_image(path).shape[:2]
    annotation = {"bbox": list(box), "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    return {"file_name": str(path), "image_id": 7, "height": height, "width": width, "annotations": [annotation]}


def predicted_on(image, cfg):
    model = torch.nn.Linear(1, 1)
    return Predictor(model, cfg, ["thing"])._prepare(image)["image"].to(torch.uint8)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_read_alike(tmp_path, tiny, name, order):
    """fizyr/keras-retinanet#589; facebookresearch/detectron2#2379."""
    KINDS[name](tmp_path / name)
    expected = read_image(tmp_path / name)
    side = min(expected.shape[:2])
    cfg = tiny("INPUT.FORMAT", order, "INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", str(side),
               "INPUT.MIN_SIZE_TEST", str(side))  # fmt: skip
    wanted = torch.from_numpy(expected.copy()).permute(2, 0, 1)
    wanted = wanted.flip(0) if order == "BGR" else wanted
    assert torch.equal(TrainingSet([record(tmp_path / name)], cfg)[0, 0]["image"], wanted)
    assert torch.equal(TestSet([record(tmp_path / name)], cfg)[0]["image"], wanted)
    assert torch.equal(predicted_on(expected, cfg), wanted)


def test_a_plain_picture_becomes_what_detectron2s_mapper_makes_of_it(tmp_path, tiny):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    cfg = tiny("INPUT.FORMAT", "BGR", "INPUT.MIN_SIZE_TRAIN", "(50, 60, 70)", "INPUT.CROP.ENABLED", "True")
    mappers, made = (TrainingMapper(cfg), DatasetMapper(cfg, is_train=True)), []
    for seed in range(6):
        for mapper in mappers:
            np.random.seed(seed)
            random.seed(seed)
            made.append(mapper(record(tmp_path / "a.png")))
        ours, theirs = made[-2:]
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)
    assert len({item["image"].shape for item in made}) > 2


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (8, 65_500), (3, 2)])
def test_strips_keep_a_pixel_a_side(tmp_path, tiny, size):
    """mindee/doctr#695, cleanlab/cleanvision#250. Detectron2 makes 5000 x 1 pixels 1333 x 0."""
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "a.png")
    cfg = tiny("INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", "[0.3, 0.3]")
    height, width = resize_for_test(np.zeros((*size, 3), np.uint8), cfg).shape[:2]
    assert 1 <= min(height, width) and max(height, width) <= cfg.INPUT.MAX_SIZE_TEST
    strip = record(tmp_path / "a.png", (0, 0, size[1], size[0]))
    item = TrainingSet([strip], cfg)[0, 0]
    assert min(item["image"].shape[1:]) >= 1 and len(item["instances"]) == 1
    assert (item["instances"].gt_boxes.area() > 0).all()
    assert min(TestSet([strip], cfg)[0]["image"].shape[1:]) >= 1


def test_no_resizing_is_none():
    image = np.zeros((1, 5000, 3), np.uint8)
    assert ResizeShortestEdge([0, 0]).get_transform(image).apply_image(image) is image


def test_a_png_damaged_inside_is_named(tmp_path, tiny):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    entry = record(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "a.png").write_bytes(content)
    for dataset, position in ((TrainingSet([entry], tiny()), (0, 0)), (TestSet([entry], tiny()), 0)):
        with pytest.raises(UserError, match="image 7 cannot be used: .*a.png: cannot be read as a picture"):
            dataset[position]


def test_more_pixels_than_the_key_allows_are_refused(tmp_path, tiny):
    Image.new("L", (50, 40)).save(tmp_path / "a.png")
    entry = record(tmp_path / "a.png")
    with pytest.raises(UserError, match="INPUT.MAX_PIXELS allows 1,999"):
        TestSet([entry], tiny("INPUT.MAX_PIXELS", "1999"))[0]
    assert TestSet([entry], tiny("INPUT.MAX_PIXELS", "0"))[0]["image"].shape[0] == 3
    assert Predictor(torch.nn.Linear(1, 1), tiny("INPUT.MAX_PIXELS", "5"), []).max_pixels == 5
