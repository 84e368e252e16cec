"""The notebooks in examples/ run from the first cell to the last, at a size of their own."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# In place of what the cell tagged "parameters" sets; FOLDER is the test's own.
SHORT = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4"]
TINY = {
    "detection": {
        "TRAIN": 4,
        "VAL": 2,
        "CHANGES": [
            *SHORT, "INPUT.MIN_SIZE_TRAIN", "64", "INPUT.MIN_SIZE_TEST", "64", "MODEL.FPN.OUT_CHANNELS", "16",
            "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
        ],
    },
    "classification": {"TRAIN": 1, "VAL": 2, "CHANGES": [*SHORT, "SOLVER.WARMUP_EPOCHS", "0"]},
    "scenes": {
        "TRAIN": 1,
        "VAL": 1,
        "CHANGES": [*SHORT, "SOLVER.WARMUP_EPOCHS", "0", "INPUT.TRAIN_SIZE", "32", "INPUT.TEST_RESIZE", "36",
                    "INPUT.TEST_SIZE", "32"],
    },
}  # fmt: skip


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_every_notebook_has_a_size():
    assert {path.stem for path in NOTEBOOKS} == set(TINY)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch, runs_in_this_process):
    """Its code in one namespace, as a kernel would; what the parameters set is changed behind their cell."""
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for cell in cells(path):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec", dont_inherit=True), space)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert {"FOLDER", *TINY[path.stem]} <= space.keys()
                space |= {"FOLDER": "made", **TINY[path.stem]}
    assert all(file.is_relative_to(tmp_path / "made") for file in tmp_path.rglob("*.*"))
    if path.stem == "classification":
        assert space["page"].is_file() and len(space["compared"].pairs) == 1
    else:
        assert (space["run"] / "summary.html").is_file() and space["predictor"].classes
