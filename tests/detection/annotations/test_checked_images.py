"""Files of images under the check: cut off, damaged, turned, of another size."""

import numpy as np
import pytest
from PIL import Image

from detection.annotations.check import check_annotations, drop_bad_records
from detection.annotations.image_files import DamagedImage, ImageSize, inspect_image
from tests.detection.annotations.sets import cut_off, good, turned


@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.99])
def test_cut_off_files_are_found_by_their_end(root, name, keep):
    cut_off(name, keep)(None, root)
    report = check_annotations(good(), root)
    assert report.counts == {"unreadable_image": 1}
    clean, summary = drop_bad_records(good(), report)
    belonging = sum(one["image_id"] == report.problems[0].image_id for one in good()["annotations"])
    assert (summary.images, summary.annotations, summary.annotations_of_dropped) == (1, 0, belonging)
    assert f"dropped 1 of 6 images, {belonging} of 4 annotations" in str(summary)
    assert check_annotations(clean, root).ok


@pytest.mark.parametrize("name", ["a.jpg", "b.png"])
def test_bytes_behind_the_end_do_no_harm(root, name):
    (root / name).write_bytes((root / name).read_bytes() + bytes(range(1, 200)) * 60)
    assert check_annotations(good(), root).problems == []


def test_whole_files_are_not_decoded(root, monkeypatch):
    def read(path, max_pixels):
        raise AssertionError("decoded")

    monkeypatch.setattr("detection.annotations.image_files.read_image", read)
    for name in ("a.jpg", "b.png"):
        assert inspect_image(root / name) == ImageSize(40, 30)
        with pytest.raises(DamagedImage, match="decoded"):
            inspect_image(root / name, decode=True)


def test_a_pngs_checksums_are_compared(root):
    content = bytearray((root / "b.png").read_bytes())
    content[len(content) // 2] ^= 4
    (root / "b.png").write_bytes(content)
    assert check_annotations(good(), root).counts == {"unreadable_image": 1}
    assert check_annotations(good(), root, check_pixels="none").ok


def test_a_wrong_checksum_of_whole_data_does_no_harm(root):
    content = bytearray((root / "b.png").read_bytes())
    end = content.index(b"IDAT") + 4 + int.from_bytes(content[content.index(b"IDAT") - 4 :][:4], "big")
    content[end] ^= 1
    (root / "b.png").write_bytes(content)
    assert check_annotations(good(), root).problems == []


def test_values_of_unknown_range_are_refused_before_training(root):
    Image.fromarray(np.zeros((30, 40), np.float32)).save(root / "b.png", format="TIFF")
    report = check_annotations(good(), root)
    assert report.counts == {"unreadable_image": 1} and "32-bit floats" in report.problems[0].message


def test_more_pixels_than_allowed_name_the_key(root):
    report = check_annotations(good(), root, max_pixels=40 * 30 - 1)
    assert set(report.counts) == {"unreadable_image"} and "INPUT.MAX_PIXELS" in report.problems[0].message
    assert check_annotations(good(), root, max_pixels=0).problems == []


def test_changed_bytes_of_a_jpeg_need_the_full_check(root):
    content = bytearray((root / "a.jpg").read_bytes())
    content[-400:-20] = b"\xff\0" * 190  # ones alone are no code of the usual tables
    (root / "a.jpg").write_bytes(content)
    assert check_annotations(good(), root).ok
    assert check_annotations(good(), root, check_pixels="full").counts == {"unreadable_image": 1}
    assert check_annotations(good(), root, check_pixels="none").ok


def test_sizes_are_upright(root):
    for orientation, expected in ((1, (40, 30)), (3, (40, 30)), (6, (30, 40)), (8, (30, 40))):
        turned("a.jpg", orientation)(None, root)
        size = inspect_image(root / "a.jpg")
        assert (size.width, size.height) == expected and size.turned == (orientation > 4)
        turned("b.png", orientation)(None, root)
        assert inspect_image(root / "b.png") == size
    coco = good()
    coco["images"][0].update(width=30, height=40)
    coco["images"][1].update(width=30, height=40)
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] != 10]
    assert check_annotations(coco, root).ok


def test_inspect_image_errors(root):
    assert inspect_image(root / "a.jpg") == ImageSize(40, 30)
    with pytest.raises(FileNotFoundError):
        inspect_image(root / "absent.jpg")
    with pytest.raises(DamagedImage, match="folder"):
        inspect_image(root)
