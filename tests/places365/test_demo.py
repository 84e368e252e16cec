"""The demonstration, small: it shows everything, and leaves what is not its own alone."""

import json

import pytest

from detection.demo import run_demo as run_detection_demo
from engine.errors import UserError
from places365.demo import run_demo
from synthetic.scenes import CLASSES


def test_the_demo_draws_trains_evaluates_and_can_be_repeated(tmp_path):
    words = ["SOLVER.EPOCHS", "1", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "demo")]
    run = run_demo(4, 1, words)
    result = json.loads((run / "result.json").read_text())
    assert result["images"] == len(CLASSES) and set(result["per_category"]["places365"]) == set(CLASSES)
    assert len(list((run / "predictions").glob("*.jpg"))) == 8 and (run / "summary.html").is_file()
    drawn = (run / "scenes" / "scenes.json").stat().st_mtime_ns
    assert run_demo(4, 1, words) == run
    assert (run / "scenes" / "scenes.json").stat().st_mtime_ns == drawn


@pytest.mark.parametrize("demo", [run_demo, run_detection_demo])
def test_another_run_is_left_alone(demo, tmp_path):
    (tmp_path / "model_final.pth").write_bytes(b"of long work")
    with pytest.raises(UserError, match="no demonstration's .model_final.pth."):
        demo(4, 1, ["OUTPUT_DIR", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["model_final.pth"]
