"""The bridge between Detectron2 versions: what it stands in for, and what it says where something lacks."""

import copy
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image

from engine import compat
from engine.errors import UserError

import detectron2

ROOT = Path(__file__).resolve().parents[2]
without_compiled_ops = pytest.mark.skipif(compat.has_compiled_ops(), reason="Detectron2 has its compiled operations")


def import_compat(*, path: Path | None = None, before: str = "", after: str = "", flags: tuple[str, ...] = ()):
    """Import engine.compat in a fresh process, with `path` in front of everything installed."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
{before}
from engine.errors import UserError
try:
    from engine import compat
except UserError as error:
    print("UserError:", error)
    sys.exit(2)
{after}
"""
    environment = {**os.environ, "PYTHONPATH": str(path) if path else "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *flags, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )


def fake_detectron2(folder: Path, **modules: str) -> Path:
    package = folder / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = 'fake'\n")
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text)
    return folder


def test_version_is_detectron2s_own():
    assert compat.detectron2_version() == detectron2.__version__


def test_the_parts_that_are_used_import_without_a_warning():
    result = import_compat(
        flags=("-W", "always"),
        after="import detectron2.config, detectron2.data, detectron2.engine\n"
        "import detectron2.evaluation, detectron2.modeling",
    )
    assert result.returncode == 0, result.stderr
    assert "deprecat" not in result.stderr.lower(), result.stderr


def test_old_names_exist():
    assert Image.LINEAR == Image.BILINEAR
    assert numpy.zeros(1).astype(numpy.bool).dtype == numpy.bool_
    assert (numpy.int, numpy.float, numpy.str) == (int, float, str)


def test_the_table_of_instances_is_printed(caplog):
    # Without numpy.int, 0.6 swallows the AttributeError, and the table is missing from the log.
    from detectron2.data.build import print_instances_class_histogram

    annotations = [{"annotations": [{"category_id": 0}, {"category_id": 0}, {"category_id": 1}]}]
    with caplog.at_level("INFO", logger="detectron2.data.build"):
        print_instances_class_histogram(annotations, ["square", "circle"])
    assert "square" in caplog.text


def test_environment_table_can_be_made():
    # It imports setuptools, which fails in a process where distutils was imported in another way before.
    result = import_compat(after="from detectron2.utils.collect_env import collect_env_info; print(collect_env_info())")
    assert result.returncode == 0, result.stderr
    assert detectron2.__version__ in result.stdout


@without_compiled_ops
def test_missing_operation_is_named_with_the_way_to_get_it():
    from detectron2 import _C

    with pytest.raises(compat.CompiledOperationMissing, match="'deform_conv_forward'.*install_detectron2.py"):
        _C.deform_conv_forward()
    with pytest.raises(UserError):
        _C.box_iou_rotated()


@without_compiled_ops
def test_stand_in_behaves_like_a_module():
    from detectron2 import _C

    assert not hasattr(_C, "deform_conv_forward")
    assert getattr(_C, "deform_conv_forward", None) is None
    assert not hasattr(_C, "__wrapped__") and not hasattr(_C, "__path__")
    assert inspect.ismodule(_C) and inspect.getmodule(_C) is _C and "Stand-in" in inspect.getdoc(_C)
    assert importlib.util.find_spec("detectron2._C") is _C.__spec__
    assert copy.copy({"module": _C})["module"] is _C
    assert "detectron2._C" in repr(_C)


@without_compiled_ops
def test_detectron2s_own_evaluator_falls_back_to_pycocotools():
    from pycocotools.cocoeval import COCOeval

    from detectron2.evaluation import coco_evaluation

    assert coco_evaluation.COCOeval_opt is COCOeval


@without_compiled_ops
def test_rotated_boxes_say_that_they_need_the_compiled_operations():
    import torch

    from detectron2.structures import RotatedBoxes, pairwise_iou_rotated

    boxes = RotatedBoxes(torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]]))
    with pytest.raises(UserError, match="compiled"):
        pairwise_iou_rotated(boxes, boxes)


def test_reloading_changes_nothing():
    result = import_compat(
        after="import importlib\n"
        "def state(): return compat.has_compiled_ops(), sys.modules['detectron2._C']\n"
        "before = state()\n"
        "importlib.reload(compat)\n"
        "assert state() == before"
    )
    assert result.returncode == 0, result.stderr


def test_missing_detectron2_says_how_to_install_it():
    hide = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "detectron2" else find_spec(name, *rest)
"""
    result = import_compat(before=hide)
    assert result.returncode == 2, result.stderr
    assert "not installed" in result.stdout and "python tools/install_detectron2.py" in result.stdout
    assert issubclass(compat.Detectron2Missing, ImportError)


def test_missing_requirement_of_detectron2_is_named(tmp_path):
    fake = fake_detectron2(tmp_path)
    (fake / "detectron2" / "__init__.py").write_text("import package_that_is_not_there\n")
    result = import_compat(path=fake)
    assert result.returncode == 2, result.stderr
    assert "package_that_is_not_there" in result.stdout and ".[detection]" in result.stdout


def test_compiled_operations_are_used_where_they_are(tmp_path):
    fake = fake_detectron2(tmp_path, _C="def box_iou_rotated(): return 'compiled'\n")
    result = import_compat(
        path=fake,
        after="from detectron2 import _C\n"
        "print(compat.detectron2_version(), compat.has_compiled_ops(), _C.box_iou_rotated())",
    )
    assert result.stdout.strip() == "fake True compiled", result.stderr


def test_compiled_operations_that_do_not_load_are_an_error(tmp_path):
    fake = fake_detectron2(tmp_path, _C="raise ImportError('undefined symbol: _ZN2at4_ops')\n")
    result = import_compat(path=fake)
    assert result.returncode == 2, result.stderr
    assert "undefined symbol" in result.stdout and "build Detectron2 again" in result.stdout
