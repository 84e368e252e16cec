"""A package's public names, each imported when it is first asked for, so that the package itself imports at once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(
    package: str, names: dict[str, str], first: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Type checkers and editors read neither: the package lists the names in ``__all__`` as well, and imports them under
    ``if TYPE_CHECKING``.

    Args:
        package: its ``__name__``.
        names: {name: the module that has it}.
        first: a module to import before any of them, for what its import does.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if first:
            importlib.import_module(first)
        value = getattr(importlib.import_module(names[name]), name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    def listing() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return get, listing
