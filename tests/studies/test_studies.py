"""Every study, tiny, through the command line's own main: it trains, evaluates, and writes its page."""

import json

import pytest

from studies.index import STUDIES
from studies.pruning import MEASURES
from synthetic.shapes import generate_shapes

CLASSES = ("bird", "cat", "cliff")
IMAGES = [
    "INPUT.TRAIN_SIZE", 32, "INPUT.TEST_RESIZE", 32, "INPUT.TEST_SIZE", 32, "SOLVER.MAX_ITER", 1,
    "SOLVER.IMS_PER_BATCH", 6, "SOLVER.PRECISION", "fp32",
]  # fmt: skip
DETECTOR = [
    "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", 64, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 1,
    "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.BACKBONE.ARCHITECTURE", "se_resnet18",
    "SOLVER.BASE_LR", "0.001", "SOLVER.WARMUP_ITERS", 0, "DATALOADER.NUM_WORKERS", 0,
]  # fmt: skip
# Of rows that differ in a number alone, or in a measure that the tests of pruning go through.
FEW_ROWS = {
    "pruning.RATIOS": (0.5,),
    "pruning.MEASURES": {name: MEASURES[name] for name in ("gate_bn", "random")},
    "ratios.RATIOS": (8,),
    "reduction.RATIOS": (4, 16),
}
WORDS = {
    "places": [*IMAGES, "INPUT.TRAIN_SIZE_START", 0, "SOLVER.WARMUP_EPOCHS", 0],
    "crops": [*IMAGES, *"MODEL.BACKBONE.ARCHITECTURE se_resnet18 SOLVER.WARMUP_EPOCHS 0".split()],
    "role_of_excitation": [*IMAGES, *"MODEL.BACKBONE.ARCHITECTURE se_resnet18 SOLVER.WARMUP_EPOCHS 0".split()],
    "networks": [*IMAGES, "SOLVER.WARMUP_EPOCHS", 0],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_scenes):
    return ["--data", write_scenes(tmp_path_factory.mktemp("data") / "images", {"train": 4, "val": 3}, CLASSES)]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    drawn = generate_shapes(tmp_path_factory.mktemp("data") / "shapes", train=3, val=2, size=64)
    return [
        "DATA.TRAIN.JSON", drawn.train_json, "DATA.TRAIN.IMAGES", drawn.train_images,
        "DATA.VAL.JSON", drawn.val_json, "DATA.VAL.IMAGES", drawn.val_images,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One place for all studies, which share their runs there."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture
def run_study(call_study, output):
    def run(name, *words):
        call_study(name, output, *words)
        return json.loads((output / "results" / f"{name}.json").read_text())

    return run


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_ends_with_its_figures_and_its_page(name, run_study, output, request, monkeypatch):
    for place, value in FEW_ROWS.items():
        monkeypatch.setattr(f"studies.{place}", value)
    data = ["detection"] if name == "detection" else []
    words = [*request.getfixturevalue("shapes" if data else "images"), *(DETECTOR if data else WORDS.get(name, IMAGES))]
    if not data:
        words += ["DATA.CACHE", output / "cache"]
    result = run_study(name, *words)
    assert result["study"] == name and not result["missing"] and all(row["runs"] for row in result["rows"])
    figures = result["figures"]
    runs = [run["figures"] for row in result["rows"] for run in row["runs"]]
    assert all(0 <= run[figure] <= 100 for run in runs for figure in figures)
    page = (output / "docs" / f"{name}.md").read_text()
    assert f"# {STUDIES[name].title}" in page and all(row["name"] in page for row in result["rows"])
    picture = "" if len(result["rows"]) > 1 else "_gates"
    assert (output / "docs" / f"{name}{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert f"]({name}.md)" in (output / "docs" / "README.md").read_text()
    assert ("gates" in result) == STUDIES[name].gates == (output / "docs" / f"{name}_gates.png").exists()
