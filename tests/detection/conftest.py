"""Small detectors and data for the tests of this room."""

import json
import os
from pathlib import Path

import pytest

from detection.config import load_config
from detection.data import make_data
from synthetic.shapes import generate_shapes

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# configs/demo.yaml at a size that a step takes a tenth of a second
TINY = [
    "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.BASE_LR", "0.01",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("data") / "shapes", train=12, val=7, size=64)


@pytest.fixture(scope="session")
def tiny(shapes):
    """(*overrides) → the tiny config on the shapes."""

    def make(*overrides, config="demo.yaml"):
        paths = [
            "DATA.TRAIN.JSON", str(shapes.train_json), "DATA.TRAIN.IMAGES", str(shapes.train_images),
            "DATA.VAL.JSON", str(shapes.val_json), "DATA.VAL.IMAGES", str(shapes.val_images),
        ]  # fmt: skip
        return load_config(CONFIGS / config, [*paths, *TINY, *overrides])

    return make


@pytest.fixture(scope="session")
def val_data(shapes):
    return make_data("shapes", shapes.val_json, shapes.val_images, json.loads(shapes.val_json.read_text()))


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets; a test that needs one is skipped where it is absent."""

    def find(name):
        folder = Path(os.environ.get("SE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / name
        if not folder.is_dir():
            pytest.skip(f"the data set {name} is not here ({folder}); set SE_DATA to the folder that holds it")
        return folder

    return find
