"""A check too slow for the test suite: every family learns to classify."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from classification.task import CLASS_FOLDERS
from classification.train import run_classification
from engine.config.shipped import shipped_config
from engine.json_files import read_json
from engine.run.experiment import Options
from se_backbones import find_spec
from synthetic.scenes import generate_scenes

CONFIG = shipped_config("places365_demo.yaml")
# One network of each family besides the ResNets.
FAMILIES = (
    "se_resnet20_cifar",
    "se_preresnet20_cifar",
    "se_shakeshake26_2x32d_cifar",
    "se_mobilenet_v1",
    "se_shufflenet_v1_g3",
    "se_bn_inception",
    "se_inception_resnet_v2",
    "se_vgg16",
)
MIN_TOP1 = 25  # twice what chance has of eight classes: learnt at all in a few epochs
# Sides of the images in training and in evaluation, by the side that a network was made for.
SIZES = {32: (32, 40), 224: (64, 80), 299: (96, 112)}


def classifiers(overrides: Sequence[str] = (), epochs: int = 8, architectures: Sequence[str] = FAMILIES) -> dict:
    """Trains each network on drawn scenes in class folders, from random weights, as ``tools/train_classifier.py`` does;
    activation maps of the validation images are drawn at its end.

    Args:
        epochs: of 1600 images.
    """
    folder = Path("output/classifiers")
    scenes = generate_scenes(folder / "scenes")
    found = {}
    for architecture in tqdm(architectures, desc="networks", disable=None):
        run = folder / architecture
        train, test = SIZES[find_spec(architecture).image_size]
        keys = {
            "DATA.ROOT": scenes.root,
            "DATA.CACHE": folder / "cache",
            "MODEL.BACKBONE.ARCHITECTURE": architecture,
            "INPUT.TRAIN_SIZE": train,
            "INPUT.TEST_RESIZE": test,
            "INPUT.TEST_SIZE": test,
            "SOLVER.BASE_LR": 0.001,
            "SOLVER.EPOCHS": epochs,
            "SOLVER.CHECKPOINT_EPOCHS": epochs,
            "OUTPUT_DIR": run,
        }
        words = [str(word) for pair in keys.items() for word in pair]
        options = Options(config=str(CONFIG), overrides=[*words, *overrides], overwrite=True)
        result = run_classification(options, CLASS_FOLDERS)
        pictures = sorted(path.name for path in (run / "predictions").iterdir())
        found[architecture] = {
            **{key: result[key] for key in ("parameters", "training_seconds")},
            **{key: result["classification"][key] for key in ("top1", "top5")},
            "pictures_with_activation_maps": len(pictures),
        }
    return {
        "passed": all(row["top1"] >= MIN_TOP1 and row["pictures_with_activation_maps"] for row in found.values()),
        "MIN_TOP1": MIN_TOP1,
        "epochs": epochs,
        "architectures": found,
        **{key: read_json(run / "result.json", "result")[key] for key in ("hardware", "versions")},
    }
