"""SE backbones for object detection with Detectron2. Importing this package registers them."""

from detection.backbone import SEBackbone, SERes5ROIHeads
from detection.config import get_cfg, load_config
from detection.model import build_detector, load_detector

__all__ = ["SEBackbone", "SERes5ROIHeads", "build_detector", "get_cfg", "load_config", "load_detector"]
