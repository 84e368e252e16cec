"""What pyproject.toml cannot say: the packages, two of them under another name than their folder has.

Installed, ``tools`` and ``configs`` would be names that anybody may use: they become ``se_tools`` and ``se_configs``.
"""

from setuptools import find_packages, setup

ROOMS = ("se_backbones", "engine", "synthetic", "classification", "places365", "detection", "studies")

setup(
    packages=[*find_packages(include=[*ROOMS, *(f"{room}.*" for room in ROOMS)]), "se_tools", "se_configs"],
    package_dir={"se_tools": "tools", "se_configs": "configs"},
)
