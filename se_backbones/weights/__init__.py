"""Weights: everything published loads, exactly and safely. The loader, the layouts, the converter."""

from se_backbones.errors import WeightsError
from se_backbones.layout import NetworkShape
from se_backbones.preprocessing import CAFFE_BGR, IMAGENET_RGB, Preprocessing
from se_backbones.weights.allow import DETECTOR_PARTS, detection_head_patterns
from se_backbones.weights.convert import Conversion, convert_file
from se_backbones.weights.formats.safe_load import load_safely
from se_backbones.weights.layouts import convert_state_dict, detect_layout
from se_backbones.weights.loader import load_weights
from se_backbones.weights.report import LoadReport
from se_backbones.weights.shapes import describe, guess_architecture
from se_backbones.weights.weights_file import WeightsFile, read_state_dict

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
