"""Small detectors and data for the tests of this room."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from detection.config import load_config
from detection.data import make_data
from se_backbones import create_backbone
from synthetic.shapes import generate_shapes
from tests.detection.others import CONFIG, forget

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


@pytest.fixture(scope="module")
def project(shapes, tmp_path_factory, runs_in_this_process):
    """Somebody's folder, with the page's config, pictures and weights in it, as the current one."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "my").mkdir()
    for split in ("train", "val"):
        (folder / "my" / split).symlink_to(getattr(shapes, f"{split}_images"))
        shutil.copy(getattr(shapes, f"{split}_json"), folder / "my" / f"{split}.json")
    shutil.copy(sorted(shapes.val_images.iterdir())[0], folder / "my" / "picture.png")
    (folder / "faster_rcnn_fpn.yaml").write_text(CONFIG, encoding="utf-8")
    torch.save(create_backbone("se_resnet18").state_dict(), folder / "weights.pth")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PYTHONHASHSEED", "0")  # upstream's seeding sets it
        # It asks the compiler and setuptools, which a process with another distutils cannot.
        monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", lambda: "")
        yield folder
    forget("mine_train", "mine_val")
