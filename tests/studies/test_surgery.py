"""Rows that begin with cut weights: one source for all, what decides their folder, and what a kill leaves."""

import json
from types import MappingProxyType

import pytest

from engine.errors import UserError
from engine.train.checkpoint import load_checkpoint
from studies.lab import surgery
from studies.lab.cells import format_cells, plan
from studies.lab.outcome import outcome
from studies.lab.run import run_cells
from studies.lab.study import Base, Row, Study, Surgery

pytestmark = pytest.mark.usefixtures("small_networks", "rough_figures")
RECIPE = ("MODEL.HEAD", "keep", "SOLVER.BASE_LR", "0.01")
CUT = Surgery("ratios", (("budget", 0.5), ("images", 12), ("rounds", 2)))
WIDTHS = Surgery(CUT.kind, CUT.settings, weights=False)
NETWORK = "se_resnet20_cifar"
WORDS = [
    "MODEL.BACKBONE.ARCHITECTURE", NETWORK, "MODEL.SE.REDUCTION", "[4]", "INPUT.TRAIN_SIZE", "32",
    "INPUT.TEST_RESIZE", "32", "INPUT.TEST_SIZE", "32", "SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "6",
    "SOLVER.PRECISION", "fp32", "MODEL.DEVICE", "cpu",
]  # fmt: skip


def study(*rows, one_source=True):
    rows = rows or (
        Row("cut", RECIPE, surgery=CUT),
        Row("from scratch", surgery=WIDTHS),
        Row("cut alone", RECIPE, evaluates=True, surgery=CUT),
    )
    bases = {"cpu": Base("classification", "configs/studies_cifar10.yaml")}
    return Study("mine", "Mine", "this", (), bases, lambda base, scale: rows, one_source=one_source)


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_scenes):
    folder = tmp_path_factory.mktemp("data")
    root = write_scenes(folder / "images", {"train": 4, "val": 3}, ("bird", "cat", "cliff"))
    return ["DATA.ROOT", str(root), "DATA.CACHE", str(folder / "cache")]


@pytest.fixture
def made(data, tmp_path):
    return plan(study(), "cpu", tmp_path, seeds=2, words=[*WORDS, *data])


def folder_of(row, *words, seed=1):
    cells = plan(study(row), "cpu", "runs", seeds=2, words=words).cells
    return next(cell.folder.name for cell in cells if cell.seed == seed)


def test_all_seeds_begin_with_the_weights_of_one_training():
    made = plan(study(Row("on", goes_on=True), Row("cut", surgery=CUT)), "cpu", "runs", seeds=3)
    assert [cell.seed for cell in made.sources] == [1]
    assert {cell.source for cell in made.cells} == {made.sources[0]}
    assert [cell.seed for cell in made.cells] == [1, 2, 3] * 2 and len({cell.folder for cell in made.cells}) == 6
    each = plan(study(Row("cut", surgery=CUT), one_source=False), "cpu", "runs", seeds=3)
    assert [cell.source.seed for cell in each.cells] == [1, 2, 3]
    assert "[ratios budget 0.5 images 12 rounds 2]" in format_cells(made)


def test_the_surgery_decides_the_folder_and_so_do_the_weights_it_cuts():
    row = Row("cut", RECIPE, surgery=CUT)
    other = Surgery(CUT.kind, (("budget", 0.25), *CUT.settings[1:]))
    own = [
        folder_of(row),
        folder_of(Row("cut", RECIPE, goes_on=True)),
        folder_of(Row("cut", RECIPE, surgery=other)),
        folder_of(Row("cut", RECIPE, surgery=WIDTHS)),
        folder_of(row, seed=2),
        folder_of(row, "MODEL.SE.REDUCTION", "[4]"),  # another source
        folder_of(row, "MODEL.WEIGHTS", "given.pth"),
        folder_of(Row("cut", RECIPE, surgery=WIDTHS), "MODEL.WEIGHTS", "given.pth"),
    ]
    assert len(set(own)) == len(own)
    assert folder_of(Row("another name", RECIPE, surgery=CUT)) == own[0]


def test_rows_are_made_with_the_widths_that_the_surgery_gave(made):
    run_cells(made, say=lambda line: None)
    cut, _, fresh, _, alone = made.cells
    words = surgery.words_of(cut)
    assert words[0] == "MODEL.SE.HIDDEN" and surgery.words_of(fresh) == surgery.words_of(alone) == words
    hidden = {cell: surgery.config_of(cell).MODEL.SE.HIDDEN for cell in (cut, fresh, alone)}
    assert hidden[cut] and hidden[cut] == hidden[fresh] == hidden[alone]
    trained = [load_checkpoint(cell.folder / "model_final.pth")["model"] for cell in (cut, fresh)]
    assert {name: t.shape for name, t in trained[0].items()} == {name: t.shape for name, t in trained[1].items()}
    # One step from the cut weights is near them, and random ones are not.
    first = load_checkpoint(cut.folder / surgery.CUT)["model"]
    far = [(one["stage3.unit1.se.fc1.weight"] - first["stage3.unit1.se.fc1.weight"]).norm() for one in trained]
    assert far[0] < 0.1 * far[1] and not (fresh.folder / "weights_report.json").exists()
    rows = {row["name"]: row for row in outcome(made)["rows"]}
    parameters = sum(t.numel() for name, t in first.items() if "running" not in name and "num_batches" not in name)
    assert rows["cut"]["parameters"] == rows["from scratch"]["parameters"] == parameters
    source = json.loads(made.sources[0].result.read_text())
    gone = rows["cut"]["cut"]["parameters_before"] - rows["cut"]["cut"]["parameters"]
    assert source["parameters"] - parameters == gone > 0
    assert rows["cut"]["multiply_adds"] == rows["from scratch"]["multiply_adds"]
    assert len(rows["cut alone"]["runs"]) == 1  # nothing is drawn at random there


def test_a_study_that_was_killed_in_a_surgery_cuts_anew(made, monkeypatch):
    cell = made.cells[0]
    run_cells(made, [made.sources[0].number], say=lambda line: None)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(surgery, "write_json", killed)  # between the two files
        run_cells(made, [cell.number], say=lambda line: None)
    assert (cell.folder / surgery.CUT).exists() and not surgery.words_of(cell) and not cell.begun
    run_cells(made, [cell.number], say=lambda line: None)  # no --resume is needed: no training had begun
    assert cell.done
    kept = (cell.folder / surgery.CUT).stat().st_mtime_ns
    assert surgery.cut(cell) == surgery.words_of(cell) and (cell.folder / surgery.CUT).stat().st_mtime_ns == kept


def test_what_a_surgery_refuses_is_told_with_its_row(made, monkeypatch):
    run_cells(made, [made.sources[0].number], say=lambda line: None)
    wrong = Surgery("ratios", (("budget", 0.01),))
    cell = plan(study(Row("too small", surgery=wrong)), "cpu", made.sources[0].folder.parent, words=made.words).cells[0]
    with pytest.raises(UserError, match=r"the row 'too small' \(ratios budget 0.01\).*cannot be had"):
        surgery.cut(cell)
    assert not cell.folder.exists()
    monkeypatch.setattr(surgery, "SURGERIES", MappingProxyType({"other": None}))
    with pytest.raises(UserError, match="there is no surgery 'ratios'; there are other"):
        surgery.cut(cell)
