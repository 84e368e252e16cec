"""Every difference between the Detectron2 versions this project runs on, and the only file that knows them.

Import it before detectron2, everywhere: ``from engine import compat  # noqa: F401``. Two versions are meant:

* 0.6 from the package index, installed by ``tools/install_detectron2.py``: Python files only, no compiled
  operations;
* upstream's current main, built with compiled operations, as people with GPUs have it.

No version number is compared. Each stand-in below looks whether the feature is there, and says why it is
needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec

from engine import quiet  # noqa: F401  (before what it is for)
from engine.errors import UserError

__all__ = ["CompiledOperationMissing", "Detectron2Missing", "detectron2_version", "has_compiled_ops"]


class Detectron2Missing(UserError, ModuleNotFoundError):
    """Detectron2 is not installed. A ModuleNotFoundError too, for what makes do without it."""


class CompiledOperationMissing(UserError, AttributeError):
    """An operation was asked for that only a compiled Detectron2 has.

    It is an AttributeError too, so that `hasattr` and `getattr` with a default treat the stand-in like any
    module.
    """


class _CompiledOpsStandIn(types.ModuleType):
    """In the place of `detectron2._C` where there is none: importable, and clear about what it cannot do."""

    is_stand_in = True

    def __init__(self) -> None:
        super().__init__("detectron2._C", "Stand-in for Detectron2's compiled operations.")
        # A module without a spec makes importlib.util.find_spec raise for it.
        self.__spec__ = ModuleSpec("detectron2._C", loader=None)

    # Detectron2 prints these three in its table of the environment, at the start of a run.
    @staticmethod
    def get_compiler_version() -> str:
        return "none (compiled operations are not installed)"

    @staticmethod
    def get_cuda_version() -> str:
        return "not available"

    @staticmethod
    def has_cuda() -> bool:
        return False

    def __getattr__(self, name: str):
        if name.startswith("__"):  # inspect, copy and pickle probe for these
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        raise CompiledOperationMissing(
            f"'{name}' is one of Detectron2's compiled operations, and the Detectron2 installed here "
            f"({detectron2_version()}) has none. Rotated boxes and, on a GPU, deformable convolutions need "
            "them. To install upstream Detectron2 from source: python tools/install_detectron2.py --help"
        )


def _import_detectron2() -> None:
    """Import the bare package, with an error a person can act on where that fails."""
    if importlib.util.find_spec("detectron2") is None:
        raise Detectron2Missing(
            f"Detectron2 is not installed in {sys.prefix}. To install it: python tools/install_detectron2.py"
        )
    try:
        importlib.import_module("detectron2")
    except ImportError as error:
        raise UserError(
            f"Detectron2 is installed but does not import: {error}. Its requirements come with: "
            'pip install -e ".[detection]"'
        ) from error


def _stand_in_for_compiled_ops() -> bool:
    """Put the stand-in where `detectron2._C` is missing. True where the real one is there."""
    if getattr(sys.modules.get("detectron2._C"), "is_stand_in", False):  # this file was reloaded
        return False
    if importlib.util.find_spec("detectron2._C") is not None:
        import torch  # noqa: F401  # the extension links against torch's libraries, which this import loads

        try:
            importlib.import_module("detectron2._C")
        except ImportError as error:
            raise UserError(
                f"Detectron2's compiled operations do not load: {error}. They were most likely built for "
                "another PyTorch: build Detectron2 again with the PyTorch that is installed now."
            ) from error
        return True

    # 0.6 imports _C at the top of detectron2.layers, so without a stand-in not even a ResNet can be built.
    stand_in = _CompiledOpsStandIn()
    sys.modules["detectron2._C"] = stand_in
    sys.modules["detectron2"]._C = stand_in

    # Detectron2's COCO evaluator takes its compiled COCOeval by default; the same interface in Python is
    # pycocotools'.
    from pycocotools.cocoeval import COCOeval

    fast_eval_api = types.ModuleType("detectron2.evaluation.fast_eval_api", "Stand-in: pycocotools' own COCOeval.")
    fast_eval_api.__spec__ = ModuleSpec(fast_eval_api.__name__, loader=None)
    fast_eval_api.COCOeval_opt = COCOeval
    sys.modules[fast_eval_api.__name__] = fast_eval_api
    return False


def _stand_in_for_pillow_linear() -> None:
    """`PIL.Image.LINEAR`: a default argument in 0.6's ExtentTransform; Pillow 10 dropped it for BILINEAR."""
    from PIL import Image

    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR


def _stand_in_for_numpy_aliases() -> None:
    """`np.bool`, `np.int`, `np.float`, `np.str`: 0.6 uses them, numpy 1.24 dropped them (2.0 has a bool).

    bool: polygon masks, the visualizer. int: the table of instances per category, semantic segmentation.
    float: semantic segmentation. str: Pascal VOC. Without `np.int` the table disappears silently, as
    Detectron2 swallows the AttributeError there.
    """
    import numpy

    for name, builtin in (("bool", bool), ("int", int), ("float", float), ("str", str)):
        if name not in vars(numpy):  # hasattr would warn on the numpy versions that only deprecate them
            setattr(numpy, name, builtin)


# Keys of a config that upstream has and 0.6 has not, with upstream's defaults: a config or checkpoint written there
# can be used here as long as it leaves them alone.
UPSTREAM_ONLY_KEYS = {
    "DATALOADER.REPEAT_SQRT": True,
    "FLOAT32_PRECISION": "",
    "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
    "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES": 50,
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": False,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
    "SOLVER.BASE_LR_END": 0.0,
    "SOLVER.NUM_DECAYS": 3,
    "SOLVER.RESCALE_INTERVAL": False,
}


def detectron2_version() -> str:
    """The version Detectron2 gives itself, such as "0.6"."""
    return str(getattr(sys.modules["detectron2"], "__version__", "unknown"))


def has_compiled_ops() -> bool:
    """Whether Detectron2 has its compiled operations (rotated boxes, deformable convolutions on a GPU)."""
    return _HAS_COMPILED_OPS


_import_detectron2()
_HAS_COMPILED_OPS = _stand_in_for_compiled_ops()
_stand_in_for_pillow_linear()
_stand_in_for_numpy_aliases()
