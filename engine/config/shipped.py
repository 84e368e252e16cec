"""The configs that come with this project: ``configs/`` in a clone, ``se_configs`` where a wheel is installed."""

from __future__ import annotations

from pathlib import Path

_BESIDE = Path(__file__).resolve().parents[2]  # the folder that holds the rooms


def shipped_config(name: str | Path) -> Path:
    """Where a shipped config lies, as in ``shipped_config("demo.yaml")``; it need not exist."""
    installed = _BESIDE / "se_configs"
    return (installed if installed.is_dir() else _BESIDE / "configs") / name


def find_config(path: str | Path) -> Path:
    """The file that a config's path means: itself, or else, for ``configs/NAME``, the shipped config of that name."""
    path = Path(path).expanduser()
    if path.parts[:1] == ("configs",) and not path.exists():
        shipped = shipped_config(path.relative_to("configs"))
        return shipped if shipped.exists() else path
    return path
