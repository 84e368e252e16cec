"""RandAugment: a few operations out of fourteen, all at one strength (Cubuk et al. 2020, arXiv 1909.13719)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from engine.errors import UserError

MAX_MAGNITUDE = 30
_FILL = [128, 128, 128]  # for what a shift or rotation leaves empty, as in the authors' code


def _affine(image, angle=0.0, translate=(0, 0), shear=(0.0, 0.0), center=None):
    return F.affine(
        image, angle, list(translate), 1.0, list(shear), InterpolationMode.BILINEAR, fill=_FILL, center=center
    )


def _shear_x(image, value):
    # About the upper left corner, as the paper's own code has it (Pillow's transform does).
    return _affine(image, shear=(math.degrees(math.atan(value)), 0.0), center=[0, 0])


def _shear_y(image, value):
    return _affine(image, shear=(0.0, math.degrees(math.atan(value))), center=[0, 0])


def _rotate(image, value):
    return F.rotate(image, value, InterpolationMode.BILINEAR, fill=_FILL)


# What an operation does with the strongest magnitude's value, that value, and whether it also goes the other way.
# The ranges are those of torchvision's RandAugment; a translation's is a share of the side, 150 / 331 pixels.
OPERATIONS: dict[str, tuple[Callable, float, bool]] = {
    "Identity": (lambda image, value: image, 0.0, False),
    "ShearX": (_shear_x, 0.3, True),
    "ShearY": (_shear_y, 0.3, True),
    "TranslateX": (lambda image, value: _affine(image, translate=(int(value * image.width), 0)), 150 / 331, True),
    "TranslateY": (lambda image, value: _affine(image, translate=(0, int(value * image.height))), 150 / 331, True),
    "Rotate": (_rotate, 30.0, True),
    "Brightness": (lambda image, value: F.adjust_brightness(image, 1 + value), 0.9, True),
    "Color": (lambda image, value: F.adjust_saturation(image, 1 + value), 0.9, True),
    "Contrast": (lambda image, value: F.adjust_contrast(image, 1 + value), 0.9, True),
    "Sharpness": (lambda image, value: F.adjust_sharpness(image, 1 + value), 0.9, True),
    "Posterize": (lambda image, value: F.posterize(image, 8 - round(value)), 4.0, False),
    "Solarize": (lambda image, value: F.solarize(image, 255 - value), 255.0, False),
    "AutoContrast": (lambda image, value: F.autocontrast(image), 0.0, False),
    "Equalize": (lambda image, value: F.equalize(image), 0.0, False),
}


class RandAugment:
    """Applies ``operations`` operations, each drawn from ``OPERATIONS`` with equal chance, at one magnitude.

    Args:
        operations: how many, one after the other (N of the paper).
        magnitude: 0..30 (M of the paper).

    Raises:
        UserError: out of range.
    """

    def __init__(self, operations: int, magnitude: int):
        if operations < 0:
            raise UserError(f"INPUT.RAND_AUGMENT.OPS must be 0 or more; got {operations}")
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise UserError(f"INPUT.RAND_AUGMENT.MAGNITUDE must be in 0..{MAX_MAGNITUDE}; got {magnitude}")
        self.operations, self.magnitude = operations, magnitude

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) RGB uint8 → the same shape. All draws come from ``rng``."""
        picture, names = Image.fromarray(image), list(OPERATIONS)
        for _ in range(self.operations):
            name, other_way = names[rng.integers(len(names))], rng.random() < 0.5
            picture = apply_operation(picture, name, self.magnitude, other_way)
        return np.array(picture)


def apply_operation(image: Image.Image, name: str, magnitude: float, other_way: bool = False) -> Image.Image:
    """One operation at a magnitude of 0..30; ``other_way`` turns those with a direction around."""
    function, strongest, signed = OPERATIONS[name]
    value = strongest * magnitude / MAX_MAGNITUDE
    return function(image, -value if signed and other_way else value)
