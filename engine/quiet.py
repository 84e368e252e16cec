"""Keeps back deprecations that lines outside this project cause: nobody who uses it can act on them.

Import it before what causes them: fvcore.nn and Detectron2.
"""

from __future__ import annotations

import warnings

for _message in (
    r"torch\.meshgrid: in an upcoming release",  # Detectron2 0.6's anchor generator gives no `indexing`
    r"`torch\.jit\.\w+` is deprecated",  # fvcore's focal losses and Detectron2's box coders, at import
):
    warnings.filterwarnings("ignore", message=_message)
