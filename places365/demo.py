"""The demonstration: everything from drawn scenes to a summary page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from classification.config import load_config
from engine.config.shipped import shipped_config
from engine.run.folder import check_demo_folder
from places365.task import PLACES365_TASK
from places365.train import Options, run_places365
from synthetic.scenes import MARKER, generate_scenes

CONFIG = shipped_config("places365_demo.yaml")


def run_demo(train_images: int, val_images: int, overrides: Sequence[str] = ()) -> Path:
    """Draws the scene set, trains and evaluates ``configs/places365_demo.yaml`` on it, and draws class activation maps.

    Args:
        train_images, val_images: how many pictures to draw of each class.
        overrides: ``KEY VALUE`` pairs on the demo's config.

    Returns:
        the run folder. An earlier demo in it is replaced.

    Raises:
        UserError: the folder holds another run.
    """
    run = Path(load_config(CONFIG, overrides).OUTPUT_DIR)
    check_demo_folder(run, f"scenes/{MARKER}", PLACES365_TASK.info)
    scenes = generate_scenes(run / "scenes", train=train_images, val=val_images)
    data = ["DATA.ROOT", str(scenes.root), "DATA.CACHE", str(run / "cache")]
    run_places365(Options(config=str(CONFIG), overrides=[*data, *overrides], overwrite=True))
    return run
