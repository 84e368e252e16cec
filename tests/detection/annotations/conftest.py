"""Pictures that the tests of annotations share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of several formats, 40 x 30 (width x height)."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.png", "c.bmp", "d.webp", "e.tif", "f.gif"):
        Image.fromarray(noise).save(folder / name)
    return folder


@pytest.fixture
def root(pictures, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
