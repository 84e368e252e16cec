"""SE backbones for object detection with Detectron2.

A name below is imported when it is first asked for, and with it the backbones are registered; the import of the package
alone, and of ``detection.coco_ap`` and ``detection.annotations``, needs neither torch nor Detectron2.
"""

from typing import TYPE_CHECKING

from se_backbones.lazy_names import lazy_names

if TYPE_CHECKING:
    from detection.backbone import SEBackbone, SERes5ROIHeads, add_se_config
    from detection.config import get_cfg, load_config
    from detection.initial_weights import load_weights
    from detection.model import build_detector
    from detection.trained import load_detector

__all__ = [
    "SEBackbone",
    "SERes5ROIHeads",
    "add_se_config",
    "build_detector",
    "get_cfg",
    "load_config",
    "load_detector",
    "load_weights",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "SEBackbone": "detection.backbone",
        "SERes5ROIHeads": "detection.backbone",
        "add_se_config": "detection.backbone",
        "build_detector": "detection.model",
        "get_cfg": "detection.config",
        "load_config": "detection.config",
        "load_detector": "detection.trained",
        "load_weights": "detection.initial_weights",
    },
    first="detection.backbone",  # which registers them
)
