"""What training sees of an image: where crops come from, what fills them, and that draws depend on nothing else."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import functional as TF

from classification.config import load_config
from classification.images.crops import TRAIN_CROPS, TrainCrop
from classification.images.transforms import TestTransform, TrainTransform, cut_out, resize, twelve_crops
from engine.errors import UserError
from engine.images.reading import open_image

MEAN = (124, 116, 104)  # the default's, in whole levels
CIFAR = ("INPUT.TRAIN_CROP", "pad", "INPUT.TRAIN_SIZE", 32, "INPUT.FLIP", 0)
SCALES = ("INPUT.TRAIN_CROP", "shorter_side", "INPUT.FLIP", 0)


def cfg(*overrides):
    return load_config(None, list(map(str, overrides)))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def crops_of(image, transform, count):
    return [transform(image, np.random.default_rng(seed)) for seed in range(count)]


def test_padded_crops_are_the_windows_of_the_image_with_the_mean_around_it():
    image = noise(32, 32)
    padded = np.empty((40, 40, 3), np.uint8)
    padded[:] = MEAN
    padded[4:36, 4:36] = image
    windows = {padded[y : y + 32, x : x + 32].tobytes(): (y, x) for y in range(9) for x in range(9)}
    torchvisions = TF.pad(Image.fromarray(image), 4, MEAN)
    assert np.array_equal(np.asarray(torchvisions), padded)
    drawn = [windows[crop.tobytes()] for crop in crops_of(image, TrainTransform(cfg(*CIFAR)), 4000)]
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 81 and np.abs(counts - 4000 / 81).max() < 4.5 * np.sqrt(4000 / 81)  # all as often


def test_padding_is_zero_for_the_network_up_to_half_a_level():
    given = cfg(*CIFAR)
    mean, std = np.array(given.MODEL.PIXEL_MEAN), np.array(given.MODEL.PIXEL_STD)
    crop = TrainCrop(given)
    transform = TrainTransform(given)
    for seed in range(20):
        _, place = crop(32, 32, 32, np.random.default_rng(seed))
        seen = transform(noise(32, 32), np.random.default_rng(seed))
        outside = np.ones((32, 32), bool)
        outside[place.top : place.top + place.height, place.left : place.left + place.width] = False
        assert (np.abs((seen[outside] - mean) / std) <= 0.5 / std).all()


def test_without_padding_a_square_image_is_seen_whole_and_another_along_its_longer_side():
    image = noise(32, 32)
    whole = TrainTransform(cfg(*CIFAR, "INPUT.PAD", 0))
    assert all(np.array_equal(crop, image) for crop in crops_of(image, whole, 5))
    wide = noise(32, 40)
    lefts = {crop.tobytes() for crop in crops_of(wide, whole, 200)}
    assert lefts == {wide[:, left : left + 32].tobytes() for left in range(9)}


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (77, 51), (20, 20)])
def test_an_image_of_another_size_gets_the_crops_side_before_it_is_padded(shape):
    """On a ramp, where resizing keeps to a straight line but for the borders."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, 0 * rows], 2).astype(np.uint8)
    given, step = cfg(*CIFAR), min(shape) / 32
    for seed in range(40):
        box, place = TrainCrop(given)(height, width, 32, np.random.default_rng(seed))
        assert 0 <= place.top and place.top + place.height <= 32 and 0 <= place.left and place.left + place.width <= 32
        assert place.height >= 28 and place.width >= 28  # 4 are of the padding at most
        seen = TrainTransform(given)(image, np.random.default_rng(seed)).astype(float)
        part = seen[place.top : place.top + place.height, place.left : place.left + place.width]
        expected = np.arange(place.height) * step, np.arange(place.width) * step
        edge = int(np.ceil(2 * max(step, 1 / step)))
        for found, line, first in zip((part[:, 5, 0], part[5, :, 1]), expected, (box.top, box.left), strict=True):
            inside = slice(edge, -edge)
            line = first + line + (step - 1) / 2
            # Cut to whole pixels on either end, and a byte's rounding.
            assert np.abs(found - line)[inside].max() <= 1.5


def test_the_shorter_side_is_drawn_evenly_and_the_square_lies_anywhere():
    crop, sides, places = TrainCrop(cfg(*SCALES)), [], []
    for seed in range(3000):
        box, place = crop(4800, 6400, 224, np.random.default_rng(seed))
        assert box.height == box.width and place == (0, 0, 224, 224)
        assert 0 <= box.top <= 4800 - box.height and 0 <= box.left <= 6400 - box.width
        sides.append(4800 * 224 / box.height)  # the resized image's shorter side
        places.append((box.top / (4800 - box.height), box.left / (6400 - box.width)))
    quantiles = (0.0, 0.25, 0.5, 0.75, 1.0)
    assert np.abs(np.quantile(sides, quantiles) - np.quantile([256, 480], quantiles)).max() < 8
    for place in np.array(places).T:
        assert np.abs(np.quantile(place, quantiles) - quantiles).max() < 0.04


@pytest.mark.parametrize("side", [256, 333, 480])
def test_a_crop_of_a_resized_image_is_what_torchvision_would_cut_from_it(side):
    image = np.stack(np.broadcast_arrays(np.arange(300)[:, None] * 0.8, np.arange(400) * 0.6, 0.0), 2)
    image = np.rint(image).astype(np.uint8)
    given = cfg(*SCALES, "INPUT.SHORTER_SIDE", [side, side])
    box, _ = TrainCrop(given)(300, 400, 224, np.random.default_rng(1))
    seen = TrainTransform(given)(image, np.random.default_rng(1)).astype(float)
    assert abs(box.height - 300 * 224 / side) <= 0.5
    top, left = (round(start * side / 300) for start in (box.top, box.left))
    theirs = TF.resize(Image.fromarray(image), side).crop((left, top, left + 224, top + 224))
    # Half a pixel of either image, in levels; and bytes are rounded before and behind, by half a level, in both.
    assert np.abs(seen - np.asarray(theirs))[3:-3, 3:-3].max() <= 0.8 * 0.5 * (1 + 300 / side) + 2


def test_a_growing_square_shows_the_same_part_of_the_image():
    crop = TrainCrop(cfg(*SCALES, "INPUT.TRAIN_SIZE_START", 96))
    for seed in range(10):
        boxes = {crop(375, 500, size, np.random.default_rng(seed))[0] for size in (96, 128, 160, 192, 224)}
        assert len(boxes) == 1


def test_a_large_photo_is_decoded_at_reduced_size(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(resize(noise(30, 40), 1500, 2000)).save(path, quality=90)
    transform, image = TrainTransform(cfg(*SCALES)), open_image(path)
    for seed in range(10):
        view = transform.choose(image, np.random.default_rng(seed))
        assert view.reduction in (2, 4) and view.box.height < 1500 and view.nbytes < 3 * 4 * 224**2
        assert transform(image, np.random.default_rng(seed)).shape == (224, 224, 3)


@pytest.mark.parametrize("crop", TRAIN_CROPS)
def test_a_crop_depends_on_its_generator_alone(crop):
    image, transform = noise(90, 120), TrainTransform(cfg("INPUT.TRAIN_CROP", crop, "INPUT.CUTOUT", 32))
    first = crops_of(image, transform, 6)
    np.random.seed(7)
    torch.manual_seed(7)
    again = [transform(image, np.random.default_rng(seed)) for seed in reversed(range(6))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({pixels.tobytes() for pixels in first}) == 6
    assert all(pixels.shape == (224, 224, 3) and pixels.flags["C_CONTIGUOUS"] for pixels in first)


@pytest.mark.parametrize("crop", TRAIN_CROPS)
@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (3, 2), (8, 65_500)])
def test_a_strip_has_a_crop_at_little_cost(crop, size):
    transform, image = TrainTransform(cfg("INPUT.TRAIN_CROP", crop, "INPUT.FLIP", 0)), noise(*size)
    for seed in range(5):
        assert transform(image, np.random.default_rng(seed)).shape == (224, 224, 3)


def test_what_fills_is_the_mean_in_the_order_of_the_channels():
    image = np.zeros((32, 32, 3), np.uint8)
    given = ("MODEL.PIXEL_MEAN", [10.4, 20.6, 30.0], *CIFAR, "INPUT.CUTOUT", 12)
    for order in ("RGB", "BGR"):
        seen = np.stack(crops_of(image, TrainTransform(cfg(*given, "INPUT.FORMAT", order)), 30)).reshape(-1, 3)
        assert {tuple(map(int, pixel)) for pixel in np.unique(seen, axis=0)} == {(0, 0, 0), (10, 21, 30)}


@pytest.mark.parametrize("side", [8, 16, 5])
def test_cutout_is_a_square_around_any_point_cut_off_at_the_border(side):
    image, fill = np.zeros((32, 32, 3), np.uint8), np.array([9, 8, 7], np.uint8)
    expected = set()
    for y in range(32):
        for x in range(32):
            mask = np.zeros((32, 32), bool)
            y0, x0 = y - side // 2, x - side // 2
            mask[max(y0, 0) : y0 + side, max(x0, 0) : x0 + side] = True
            expected.add(mask.tobytes())
    rng, found = np.random.default_rng(0), set()
    for _ in range(12_000):
        cut = cut_out(image, side, fill, rng)
        mask = (cut == fill).all(axis=2)
        assert (mask | (cut == 0).all(axis=2)).all()
        found.add(mask.tobytes())
    assert found == expected and not image.any()


def test_cutout_leaves_the_rest_of_the_pipeline_as_it_is():
    image, plain = noise(60, 80), ("INPUT.TRAIN_SIZE", 48, "INPUT.COLOR_JITTER", 0.3, "INPUT.RAND_AUGMENT.OPS", 1)
    whole, cut = TrainTransform(cfg(*plain)), TrainTransform(cfg(*plain, "INPUT.CUTOUT", 16))
    before = image.copy()
    for seed in range(10):
        a, b = (transform(image, np.random.default_rng(seed)) for transform in (whole, cut))
        differs = (a != b).any(axis=2)
        assert 0 < differs.sum() <= 256 and (b[differs] == MEAN).all()
    assert np.array_equal(image, before)


@pytest.mark.parametrize("shorter, size", [(256, 224), (352, 299), (320, 320), (368, 320)])
@pytest.mark.parametrize("shape", [(375, 500), (500, 333)])
def test_the_papers_protocols_are_torchvisions(shorter, size, shape):
    """Table 2's and table 8's: 224 out of 256, 299 out of 352, 320 out of 320."""
    image = resize(noise(8, 10), *shape)
    given = ("INPUT.TEST_RESIZE", shorter, "INPUT.TEST_SIZE", size)
    resized = TF.resize(Image.fromarray(image), shorter)
    one = TestTransform(cfg(*given))(image).astype(int)
    assert np.abs(one - np.asarray(TF.center_crop(resized, size))).max() <= 1
    ten = TestTransform(cfg(*given, "TEST.CROPS", 10))(image).astype(int)
    assert ten.shape == (10, size, size, 3)
    for ours, theirs in zip(ten, T.TenCrop(size)(resized), strict=True):
        assert np.abs(ours - np.asarray(theirs)).max() <= 1


def test_the_twelve_crops_are_five_of_the_squashed_image_the_whole_and_their_mirror_images():
    image = resize(noise(8, 10), 256, 341)
    crops = twelve_crops(image, 224)
    square = Image.fromarray(image).resize((256, 256), Image.BILINEAR)
    theirs = []
    for view in (square, TF.hflip(square)):
        theirs += [*T.FiveCrop(224)(view), view.resize((224, 224), Image.BILINEAR)]
    assert len(crops) == len(theirs) == 12
    for ours, other in zip(crops, theirs, strict=True):
        assert np.abs(ours.astype(int) - np.asarray(other)).max() <= 2  # resized twice
    transform = TestTransform(cfg("TEST.CROPS", 12))
    assert transform.shape == transform(image).shape == (12, 224, 224, 3)
    assert np.array_equal(transform(image), np.stack(crops))
    assert np.array_equal(transform.centre(image), TestTransform(cfg())(image))


@pytest.mark.parametrize(
    "overrides, words",
    [
        (("INPUT.SHORTER_SIDE", [300, 400]), ["INPUT.SHORTER_SIDE", "shorter_side, not area"]),
        (("INPUT.PAD", 2), ["INPUT.PAD", "pad, not area"]),
        ((*CIFAR, "INPUT.SCALE", [0.5, 1.0]), ["INPUT.SCALE", "area, not pad"]),
        ((*SCALES, "INPUT.TRAIN_SIZE", 299, "INPUT.TEST_SIZE", 200), ["INPUT.SHORTER_SIDE", "INPUT.TRAIN_SIZE 299"]),
        (("INPUT.TRAIN_CROP", "pad", "INPUT.TRAIN_SIZE_START", 64), ["INPUT.TRAIN_SIZE_START", "pad"]),
        (("INPUT.TRAIN_SIZE_START", 64, "INPUT.CUTOUT", 80), ["INPUT.CUTOUT", "0..64"]),
    ],
)
def test_settings_that_a_crop_cannot_have_are_errors(overrides, words):
    with pytest.raises(UserError) as error:
        cfg(*overrides)
    for word in words:
        assert word in str(error.value)


def test_a_test_size_may_be_larger_than_the_sides_of_another_crop():
    assert cfg("INPUT.TRAIN_SIZE", 320).INPUT.TRAIN_CROP == "area"  # whose SHORTER_SIDE, 256 at least, is not read
