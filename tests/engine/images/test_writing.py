"""Pictures written to files: whole, or not at all."""

import errno

import numpy as np
import pytest

from engine.images.writing import write_image
from tests.full_disk import largest_file


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_picture_without_room_is_an_error_and_nothing_torn(tmp_path, suffix):
    """Pillow takes a write of half the bytes for one of all."""
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    with largest_file(4000), pytest.raises(OSError) as raised:
        write_image(tmp_path / f"a{suffix}", noise)
    assert raised.value.errno == errno.EFBIG and raised.value.filename == str(tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())
