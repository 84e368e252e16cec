"""Keeps back warnings that lines outside this project cause: nobody who uses it can act on them.

Import it before what causes them: fvcore.nn and Detectron2.
"""

from __future__ import annotations

import warnings

for _message in (
    r"torch\.meshgrid: in an upcoming release",  # Detectron2 0.6's anchor generator gives no `indexing`
    r"`torch\.jit\.\w+` is deprecated",  # fvcore's focal losses and Detectron2's box coders, at import
    r"TypedStorage is deprecated",  # Detectron2 0.6's all_gather
    # PyTorch's, in each of several processes: the strides of a 1×1 convolution's weights in channels_last have two
    # spellings for the same memory.
    r"Grad strides do not match bucket view strides",
):
    warnings.filterwarnings("ignore", message=_message)
