"""Packaging: `pip install -e ".[detection,dev]"`. Build-system and tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"
ROOMS = ("se_backbones", "engine", "synthetic", "classification", "places365", "detection")

# Ranges, not pins, so that pip leaves alone what an environment already has; the tested versions are in
# constraints.txt.

# Before 2.6, torch.load(weights_only=True) could be made to run code from a file (CVE-2025-32434).
TORCH = "torch>=2.6,<3"

# What Detectron2 needs at import, in the versions both 0.6 and upstream's main accept. Detectron2 itself is
# not listed: no index has a release that pip can build without a compiler. tools/install_detectron2.py
# installs it.
DETECTRON2_NEEDS = [
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7,<0.1.10",
    "matplotlib>=3.5",
    "numpy>=1.23",
    "omegaconf>=2.1,<2.4",
    "packaging",
    "pillow>=9.1",
    "pycocotools>=2.0.7",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>=4.64",
    "yacs>=0.1.8",
]

EXTRAS = {
    "detection": [
        *DETECTRON2_NEEDS,
        "torchvision>=0.21,<1",
        # OpenCV without its windows, which this project never opens: opencv-python, the same module with
        # them, does not import where the system has no libGL, X11 and GLib (servers, containers).
        "opencv-python-headless>=4.7",
        "hotcoco>=1.3,<1.4",  # COCO AP in compiled code; figures compared with pycocotools' for 1.3
        "safetensors>=0.4",
        "simplejpeg>=1.8",  # libjpeg-turbo to RGB, at reduced sizes too
        "setuptools>=70.1",  # builds Detectron2's wheel (bdist_wheel is part of it from here on)
    ],
    "weights": ["safetensors>=0.4", "timm>=1.0"],
    "dev": [
        "faster-coco-eval>=1.6",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.6",
        "safetensors>=0.4",
        "timm>=1.0",
        "torchmetrics>=1.9",
    ],
}

setup(
    name="se-backbones",
    version="0.1.0",
    description="Squeeze-and-Excitation backbones for detection (COCO) and scene classification (Places365)",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    author="se-backbones contributors",
    license="MIT",
    keywords="squeeze-and-excitation, SE-ResNet, SENet, Faster R-CNN, Detectron2, COCO, Places365, PyTorch",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=[*ROOMS, *(f"{room}.*" for room in ROOMS)]),
    package_data={"places365": ["categories365.txt"]},
    install_requires=[TORCH],
    extras_require=EXTRAS,
)
