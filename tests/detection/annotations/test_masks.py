"""Every form of a mask gives the pixels that pycocotools gives, and its C code sees no damaged ones."""

import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detection.annotations.masks import BadMask, compress, pixels_of, read_mask


def random_masks(count=300):
    random = np.random.default_rng(5)
    for index in range(count):
        shape = random.integers(1, 90, 2)
        if index % 3:
            yield random.random(shape) < random.random()
        else:  # long runs, which take several characters each
            yield np.repeat([[index % 2 == 0, True]], [shape[0] * 40, 50], axis=1).repeat(40, axis=0)


def encoded(mask):
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def runs(mask):
    """Uncompressed run lengths, down the columns, beginning with zeros."""
    flat = np.asarray(mask).T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return np.diff([0, *edges, flat.size]).tolist()


def test_whole_run_lengths_cover_their_image():
    masks = list(random_masks())
    assert pixels_of([encoded(mask)["counts"] for mask in masks]).tolist() == [mask.size for mask in masks]


def test_damaged_run_lengths_do_not_and_do_no_harm_to_their_neighbours():
    masks = [mask for mask in random_masks() if mask.size > 1]
    counts = [encoded(mask)["counts"] for mask in masks]
    damaged = [one[: len(one) // 2] if index % 2 else one for index, one in enumerate(counts)]
    right = pixels_of(damaged) == [mask.size for mask in masks]
    assert right.tolist() == [index % 2 == 0 for index in range(len(masks))]
    assert pixels_of([b"", b"~", b"\xff\xfe", "é".encode(), b"oooooooooooo1", counts[0]]).tolist() == [
        *[-1] * 5,
        masks[0].size,
    ]


@pytest.mark.parametrize("form", [list, tuple, np.array, lambda counts: [float(one) for one in counts]])
def test_uncompressed_run_lengths_are_the_same_mask(form):
    for mask in random_masks(30):
        height, width = mask.shape
        for size in ([height, width], [float(height), float(width)]):
            read = read_mask({"size": size, "counts": form(runs(mask))}, height, width)
            assert (coco_mask.decode(read) == mask).all()


def test_compressed_run_lengths_may_be_text_or_bytes():
    for mask in random_masks(30):
        mine = encoded(mask)
        for counts in (mine["counts"], mine["counts"].decode()):
            read = read_mask({"size": mine["size"], "counts": counts}, *mask.shape)
            assert (coco_mask.decode(read) == mask).all()


@pytest.mark.parametrize("bad", [[], [1, 1], [1, 1, 5, 5], [1, 1, 5, 5, 9], [1, 2, 3, 4, 5, 6, 7]])
def test_polygons_without_area_are_left_out(bad):
    good = [2.0, 2.0, 12.0, 2.0, 12.0, 12.0, 2.0, 12.0]
    for shape in ([good, bad], [bad, good], [bad, good, bad]):
        assert read_mask(shape, 30, 40) == [good]
    with pytest.raises(BadMask, match=f"a polygon of {len(bad)} numbers"):
        read_mask([bad], 30, 40)


def test_the_size_of_the_image_counts_where_it_is_known():
    mask = {"size": [3, 5], "counts": [15]}
    assert compress(mask, 0, 0)["size"] == [3, 5]
    with pytest.raises(BadMask, match=r"size \[3, 5\], image \[5, 3\]"):
        compress(mask, 5, 3)


@pytest.mark.parametrize(
    "counts",
    [
        [1e308, 1e308],
        [10**300, 1],
        [2**64, 15],
        [1e19, 15.0],
        [math.inf],
        [math.nan, 15],
        [10**400],
        [15.5],
        [-1, 16],
        [np.int64(2**63 - 1), np.int64(2**63 - 1), 17],
        np.array([1e308, 1e308]),
        np.array([[15]]),
        [[15]],
        [True, 14],
    ],
)
def test_numbers_that_are_no_run_lengths(counts):
    for known in ((3, 5), (0, 0)):
        with pytest.raises(BadMask, match="^run lengths (of|that) ") as refused:
            compress({"size": [3, 5], "counts": counts}, *known)
        assert len(str(refused.value)) < 120


@pytest.mark.parametrize("size", [[2**16, 2**16], [2**31, 2**31], [1e300, 1], [10**400, 1], [math.inf, 1]])
def test_masks_of_more_pixels_than_pycocotools_counts(size):
    for counts in ("15", [1.0]):
        with pytest.raises(BadMask, match="^run lengths of size "):
            compress({"size": size, "counts": counts}, 0, 0)
