"""Transforms: boxes, sizes and crops are torchvision's, pixels are close to Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import autoaugment
from torchvision.transforms import functional as TF

from classification.config import get_cfg, load_config
from classification.images.crops import random_box, reduction_for, shorter_side_to
from classification.images.rand_augment import OPERATIONS, RandAugment, apply_operation
from classification.images.transforms import (
    TestTransform,
    TrainTransform,
    color_jitter,
    resize,
    ten_crops,
    without_the_unseen,
)
from engine.errors import UserError
from engine.images.reading import open_image

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def photo(height, width, seed=0):
    """Smooth structure and noise, (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 7, 3)).astype(np.uint8)).resize((width, height))
    return np.clip(np.asarray(coarse) + random.normal(0, 15, (height, width, 3)), 0, 255).astype(np.uint8)


def cfg(*overrides):
    return load_config(None, list(map(str, overrides)))


def levels(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))


def test_boxes_lie_inside_and_keep_to_the_ranges():
    rng = np.random.default_rng(0)
    for height, width in ((480, 640), (101, 99), (1, 1), (7, 300)):
        for _ in range(200):
            box = random_box(height, width, SCALE, RATIO, rng)
            assert 0 <= box.top <= height - box.height and 0 <= box.left <= width - box.width
            assert box.height > 0 and box.width > 0
            if (height, width) == (480, 640):
                assert 0.079 < box.height * box.width / (480 * 640) <= 1
                assert 0.74 < box.width / box.height < 1.35


def test_boxes_are_distributed_as_torchvisions():
    rng, torchvisions = np.random.default_rng(0), torch.empty(3, 480, 640)
    torch.manual_seed(0)
    ours = np.array([random_box(480, 640, SCALE, RATIO, rng) for _ in range(2000)], float)
    theirs = np.array([T.RandomResizedCrop.get_params(torchvisions, SCALE, RATIO) for _ in range(2000)], float)
    for column, size in zip(range(4), (480, 640, 480, 640), strict=True):  # top, left, height, width
        quantiles = [np.quantile(boxes[:, column], (0.1, 0.3, 0.5, 0.7, 0.9)) / size for boxes in (ours, theirs)]
        assert np.abs(quantiles[0] - quantiles[1]).max() < 0.04
    ratios = [np.quantile(boxes[:, 3] / boxes[:, 2], (0.1, 0.5, 0.9)) for boxes in (ours, theirs)]
    assert np.abs(ratios[0] - ratios[1]).max() < 0.03


@pytest.mark.parametrize("size", [(20, 1000), (1001, 20), (300, 300), (7, 11)])
def test_where_no_box_fits_the_central_part_is_torchvisions(size):
    whole = (1.0000001, 1.0000001) if size != (300, 300) else (4.0, 4.0)  # of the area: never fits
    theirs = T.RandomResizedCrop.get_params(torch.empty(3, *size), whole, (0.9, 1.1))
    assert tuple(random_box(*size, whole, (0.9, 1.1), np.random.default_rng(0))) == tuple(theirs)


@pytest.mark.parametrize("size", [(256, 341), (64, 64), (500, 700), (32, 100), (301, 455)])
def test_resizing_is_pillows_antialiased_filter(size):
    image = photo(301, 455)
    reference = Image.fromarray(image).resize(size[::-1], Image.BILINEAR)
    difference = levels(resize(image, *size), reference)
    assert difference.max() <= 1 and difference.mean() < 0.1


def test_a_part_of_an_array_is_resized_like_a_copy_of_it():
    image = photo(301, 455)
    part = image[20:220, 50:300][:, ::-1]
    assert np.array_equal(resize(part, 64, 80), resize(part.copy(), 64, 80))


def test_the_other_side_is_rounded_as_torchvision_does():
    for height, width in ((480, 640), (427, 640), (640, 427), (333, 1000), (1000, 333), (256, 256), (255, 257), (3, 7)):
        resized = TF.resize(Image.new("RGB", (width, height)), 256)
        assert shorter_side_to(256, height, width) == resized.size[::-1]


@pytest.mark.parametrize("shape", [(427, 640), (640, 427), (301, 301), (90, 120), (256, 479)])
def test_evaluation_sees_what_torchvision_would_show(shape):
    image = photo(*shape)
    ours = TestTransform(cfg())(image)
    theirs = T.Compose([T.Resize(256), T.CenterCrop(224)])(Image.fromarray(image))
    assert ours.shape == (224, 224, 3) and ours.flags["C_CONTIGUOUS"]
    assert levels(ours, theirs).max() <= 1 and levels(ours, theirs).mean() < 0.1


@pytest.mark.parametrize("shape", [(256, 341), (299, 256), (257, 257), (224, 224)])
def test_ten_crops_are_torchvisions(shape):
    image = photo(*shape)
    theirs = np.stack([np.asarray(crop) for crop in T.TenCrop(224)(Image.fromarray(image))])
    assert np.array_equal(np.stack(ten_crops(image, 224)), theirs)


def test_ten_crops_come_from_the_resized_image():
    transform = TestTransform(cfg("TEST.CROPS", 10, "INPUT.TEST_SIZE", 64, "INPUT.TEST_RESIZE", 81))
    image = photo(200, 331)
    crops = transform(image)
    assert crops.shape == transform.shape == (10, 64, 64, 3) and crops.flags["C_CONTIGUOUS"]
    assert np.array_equal(crops, np.stack(ten_crops(transform.resized(image), 64)))
    single = TestTransform(cfg("INPUT.TEST_SIZE", 64, "INPUT.TEST_RESIZE", 81))(image)
    assert np.array_equal(crops[4], single)


def test_without_resizing_only_small_images_are_resized():
    transform = TestTransform(cfg("INPUT.TEST_RESIZE", 0, "INPUT.TEST_SIZE", 64))
    image = photo(100, 131)
    assert np.array_equal(transform(image), np.asarray(T.CenterCrop(64)(Image.fromarray(image))))
    small = photo(40, 50)
    assert np.array_equal(transform.resized(small), resize(small, 64, 80))


def test_bgr_is_rgb_the_other_way_round():
    image, small = photo(90, 120), ("INPUT.TEST_RESIZE", 64, "INPUT.TEST_SIZE", 64, "INPUT.TRAIN_SIZE", 64)
    for make in (TestTransform, lambda c: lambda image: TrainTransform(c)(image, np.random.default_rng(3))):
        rgb, bgr = make(cfg(*small))(image), make(cfg(*small, "INPUT.FORMAT", "BGR"))(image)
        assert np.array_equal(rgb, bgr[:, :, ::-1]) and bgr.flags["C_CONTIGUOUS"] and not np.array_equal(rgb, bgr)
    ten = TestTransform(cfg(*small, "INPUT.FORMAT", "BGR", "TEST.CROPS", 10))(image)
    assert np.array_equal(ten[4], TestTransform(cfg(*small, "INPUT.FORMAT", "BGR"))(image))


AUGMENTED = ("INPUT.RAND_AUGMENT.OPS", 2, "INPUT.COLOR_JITTER", 0.4, "INPUT.TRAIN_SIZE", 48)


def test_a_training_image_depends_on_its_generator_alone():
    image, transform = photo(120, 160), TrainTransform(cfg(*AUGMENTED))
    first = [transform(image, np.random.default_rng(seed)) for seed in range(6)]
    np.random.seed(7)
    torch.manual_seed(7)
    again = [transform(image, np.random.default_rng(seed)) for seed in reversed(range(6))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({pixels.tobytes() for pixels in first}) == 6
    assert all(pixels.shape == (48, 48, 3) and pixels.dtype == np.uint8 for pixels in first)


def test_flips_are_mirror_images_of_the_same_crop():
    image, rng = photo(120, 160), np.random.default_rng
    never, always = (TrainTransform(cfg("INPUT.FLIP", flip, "INPUT.TRAIN_SIZE", 48)) for flip in (0, 1))
    assert all(np.array_equal(never(image, rng(i)), always(image, rng(i))[:, ::-1]) for i in range(5))
    even = TrainTransform(cfg("INPUT.TRAIN_SIZE", 48))
    flipped = [np.array_equal(even(image, rng(i)), always(image, rng(i))) for i in range(200)]
    assert 70 < sum(flipped) < 130


def test_a_file_and_its_pixels_give_the_same_crops(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(200, 260)).save(path)
    transform = TrainTransform(cfg("INPUT.TRAIN_SIZE", 150, "INPUT.TEST_SIZE", 150))  # no reduced decoding
    pixels = np.asarray(Image.open(path))
    for seed in range(10):
        from_file = transform(open_image(path), np.random.default_rng(seed))
        assert np.array_equal(from_file, transform(pixels, np.random.default_rng(seed)))


def test_a_reduced_decoding_is_close_to_the_whole(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(photo(600, 800)).save(path, quality=95)
    transform = TrainTransform(cfg("INPUT.TRAIN_SIZE", 64, "INPUT.FLIP", 0))
    pixels = np.asarray(Image.open(path))
    differences = [
        levels(transform(open_image(path), np.random.default_rng(i)), transform(pixels, np.random.default_rng(i)))
        for i in range(10)
    ]
    assert 0 < np.mean([d.mean() for d in differences]) < 4  # in part the shift of a box by up to 4 pixels


def test_a_reduction_leaves_the_pixels_that_are_needed():
    rng = np.random.default_rng(0)
    reductions = set()
    for _ in range(500):
        box = random_box(1500, 2000, SCALE, RATIO, rng)
        size = int(rng.integers(32, 400))
        reduction = reduction_for(box, size)
        reductions.add(reduction)
        height, width = box.height / reduction, box.width / reduction
        assert reduction == 1 or (height * width >= size**2 and min(height, width) >= 0.85 * size)
        assert reduction == 8 or height * width < 4 * size**2 * 1.001 or min(height, width) < 0.85 * 2 * size
    assert reductions == {1, 2, 4, 8}


class Chosen:
    """In place of a generator: one operation, one factor."""

    def __init__(self, kind, factor):
        self.kind, self.factor = kind, factor

    def permutation(self, count):
        return [self.kind]

    def uniform(self, low, high):
        assert (low, high) == (0.5, 1.5)
        return self.factor


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("kind", range(3))
def test_color_jitter_is_torchvisions(kind, factor):
    image = photo(50, 60)
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)[kind]
    ours = color_jitter(image, 0.5, Chosen(kind, factor))
    assert levels(ours, adjust(Image.fromarray(image), factor)).max() <= 2


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_each_operation_is_torchvisions(name, magnitude):
    image = Image.fromarray(photo(56, 72))
    magnitudes, signed = autoaugment.RandAugment()._augmentation_space(31, (56, 72))[name]
    value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
    assert bool(signed) == OPERATIONS[name][2]
    for other_way in (False, True) if signed else (False,):
        theirs = autoaugment._apply_op(
            image, name, -value if other_way else value, TF.InterpolationMode.BILINEAR, [128] * 3
        )
        ours = apply_operation(image, name, magnitude, other_way)
        assert levels(ours, theirs).max() <= 1  # their magnitudes are float32


def test_the_operations_are_the_papers_fourteen_and_all_are_drawn(monkeypatch):
    names = set(autoaugment.RandAugment()._augmentation_space(31, (56, 72)))
    assert set(OPERATIONS) == names and len(names) == 14
    drawn = []
    monkeypatch.setattr(
        "classification.images.rand_augment.apply_operation",
        lambda image, name, magnitude, other_way: drawn.append((name, magnitude, other_way)) or image,
    )
    augment, rng = RandAugment(2, 7), np.random.default_rng(0)
    for _ in range(300):
        augment(photo(8, 8), rng)
    assert len(drawn) == 600 and {name for name, _, _ in drawn} == names
    assert {magnitude for _, magnitude, _ in drawn} == {7} and 200 < sum(way for _, _, way in drawn) < 400


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [
        (TrainTransform, "FLIP", 1.5),
        (TrainTransform, "COLOR_JITTER", 1.0),
        (TrainTransform, "RAND_AUGMENT.MAGNITUDE", 31),
        (TrainTransform, "RAND_AUGMENT.OPS", -1),
        (TestTransform, "TEST_SIZE", 300),
    ],
)
def test_what_is_out_of_range_is_a_user_error_that_names_the_key(make, key, value):
    given = get_cfg()
    given.INPUT.RAND_AUGMENT.OPS = 1
    node, name = (given.INPUT.RAND_AUGMENT, key.split(".")[1]) if "." in key else (given.INPUT, key)
    node[name] = value
    with pytest.raises(UserError, match=key):
        make(given)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (3, 2), (8, 65_500)])
@pytest.mark.parametrize("crops", [1, 10])
def test_a_strip_has_a_crop_at_little_cost(size, crops):
    """mindee/doctr#695, cleanlab/cleanvision#250."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    transform = TestTransform(cfg("TEST.CROPS", crops))
    assert without_the_unseen(image).size <= max(3 * 100 * min(size) ** 2, image.size // 10)
    assert transform(image).shape == transform.shape
    assert TrainTransform(cfg())(image, np.random.default_rng(0)).shape == (224, 224, 3)


@pytest.mark.parametrize("size", [(4, 1001), (1000, 4), (1, 501), (9, 1100)])
def test_a_strips_crops_are_those_of_the_whole(size):
    ramp = np.arange(max(size))[:, None] * np.array([3, 5, 7])
    image = np.abs(ramp % 510 - 255).astype(np.uint8).reshape(-1, 1, 3) * np.ones((1, min(size), 1), np.uint8)
    image = image if size[0] > size[1] else image.transpose(1, 0, 2)
    transform = TestTransform(cfg("TEST.CROPS", 10, "INPUT.TEST_RESIZE", 40, "INPUT.TEST_SIZE", 32))
    whole = np.stack(ten_crops(transform.resized(image), 32))
    assert np.abs(transform(image).astype(int) - whole).mean() < 2


def test_where_no_ratio_fits_a_strip_a_pixel_is_left():
    rng = np.random.default_rng(0)
    assert random_box(1, 5000, (0.08, 1), (0.1, 0.3), rng)[2:] == (1, 1)
    assert random_box(5000, 1, (0.08, 1), (3, 4), rng)[2:] == (1, 1)
