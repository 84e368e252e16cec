"""The demonstration: everything from drawn data to a summary page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detection.config import load_config
from detection.task_info import DETECTION
from detection.train import Options, run_detection
from engine.config.shipped import shipped_config
from engine.run.folder import check_demo_folder
from synthetic.shapes import MARKER, generate_shapes

CONFIG = shipped_config("demo.yaml")


def run_demo(train_images: int, val_images: int, overrides: Sequence[str] = ()) -> Path:
    """Draws the shapes set, trains and evaluates ``configs/demo.yaml`` on it.

    Args:
        train_images, val_images: how many pictures to draw.
        overrides: ``KEY VALUE`` pairs on the demo's config.

    Returns:
        the run folder. An earlier demo in it is replaced.

    Raises:
        UserError: the folder holds another run.
    """
    run = Path(load_config(CONFIG, overrides).OUTPUT_DIR)
    check_demo_folder(run, f"shapes/{MARKER}", DETECTION)
    shapes = generate_shapes(run / "shapes", train=train_images, val=val_images)
    data = {
        "DATA.TRAIN.JSON": shapes.train_json,
        "DATA.TRAIN.IMAGES": shapes.train_images,
        "DATA.VAL.JSON": shapes.val_json,
        "DATA.VAL.IMAGES": shapes.val_images,
    }
    words = [word for key, value in data.items() for word in (key, str(value))]
    run_detection(Options(config=str(CONFIG), overrides=[*words, *overrides], overwrite=True))
    return run
