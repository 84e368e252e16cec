"""Weights: everything published loads, exactly and safely. The loader, the layouts, the converter."""

from .allow import DETECTOR_PARTS, detection_head_patterns
from .convert import Conversion, convert_file
from .errors import WeightsError
from .layouts import convert_state_dict, detect_layout
from .loader import load_weights
from .preprocessing import CAFFE_BGR, IMAGENET_RGB, Preprocessing
from .report import LoadReport
from .safe_load import load_safely
from .shapes import NetworkShape, describe, guess_architecture
from .weights_file import WeightsFile, read_state_dict

__all__ = [
    "CAFFE_BGR",
    "DETECTOR_PARTS",
    "IMAGENET_RGB",
    "Conversion",
    "LoadReport",
    "NetworkShape",
    "Preprocessing",
    "WeightsError",
    "WeightsFile",
    "convert_file",
    "convert_state_dict",
    "describe",
    "detect_layout",
    "detection_head_patterns",
    "guess_architecture",
    "load_safely",
    "load_weights",
    "read_state_dict",
]
