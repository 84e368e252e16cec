"""What the engine is told of detection."""

from __future__ import annotations

from pathlib import Path

from engine.report.run_reader import find, flat
from engine.task import ConfigFacts, TaskInfo

_METHODS = {"GeneralizedRCNN": "Faster R-CNN", "RetinaNet": "RetinaNet"}


def _read_config(config: dict, result: dict) -> ConfigFacts:
    architecture, with_masks = str(find(config, "MODEL.META_ARCHITECTURE")), find(config, "MODEL.MASK_ON")
    has_masks = architecture == "GeneralizedRCNN" and with_masks
    shorter, longer = (find(config, f"INPUT.{key}_SIZE_TEST") for key in ("MIN", "MAX"))
    return ConfigFacts(
        method="Mask R-CNN" if has_masks else _METHODS.get(architecture, ""),
        training_data=_data_set(config, "TRAIN", "TRAIN"),
        evaluation_data=_data_set(config, "VAL", "TEST"),
        image_size=f"shorter side {shorter}, longer at most {longer} pixels" if shorter else "",
    )


def _data_set(config: dict, own: str, group: str) -> str:
    """The folder and the split, from DATA.<own>.JSON; else the name in DATASETS.<group>."""
    path = find(config, f"DATA.{own}.JSON")
    if not path:
        return flat(find(config, f"DATASETS.{group}"))
    parts = [part for part in Path(str(path)).with_suffix("").parts if part not in ("annotations", "..", "/")]
    return "/".join([*parts[-2:-1], *(part.removeprefix("instances_") for part in parts[-1:])])


# With these changed, the same tensors decode boxes or cut out regions in another way. What an evaluation may choose is
# none of them: thresholds of scores and of suppression, numbers of proposals and of detections, the size of images.
_UNMARKED = (
    "MODEL.RESNETS.RES5_DILATION",
    "MODEL.RESNETS.STRIDE_IN_1X1",  # Detectron2's own ResNets
    "MODEL.FPN.FUSE_TYPE",
    "MODEL.ANCHOR_GENERATOR.*",
    "MODEL.RPN.IN_FEATURES",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "MODEL.RETINANET.IN_FEATURES",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES",
    "MODEL.*.BBOX_REG_WEIGHTS",
    "MODEL.*.POOLER_*",
    "MODEL.*_HEAD.NORM",  # GN and LN have the same tensors
    "MODEL.FPN.NORM",
    "MODEL.RETINANET.NORM",
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
)

DETECTION = TaskInfo(
    name="detection",
    title="Object detection",
    packages=("detection",),
    figures={"bbox": "Box AP", "segm": "Mask AP", "keypoints": "Keypoint AP"},
    main_figures=("AP", "AP50", "AP75"),
    predictions_file="coco_instances_results.json",
    # COCO's twelve: cocodataset.org/#detection-eval
    figure_meanings={
        "AP": "IoU 0.50 to 0.95",
        "AP50": "IoU 0.50",
        "AP75": "IoU 0.75",
        "APs": "small objects, below 32² pixels",
        "APm": "medium objects",
        "APl": "large objects, above 96² pixels",
        "AR1": "recall, 1 detection an image",
        "AR10": "recall, 10 detections an image",
        "AR100": "recall, 100 detections an image",
        "ARs": "recall, small objects",
        "ARm": "recall, medium objects",
        "ARl": "recall, large objects",
    },
    no_figure="no such object in the data",
    listings={"annotation_problems*.json": "The annotations had problems"},
    train_command="tools/train_net.py",
    predict_command="tools/predict.py",
    unmarked=_UNMARKED,
    read_config=_read_config,
)
