"""Cells: what decides a run decides its folder, and nothing else does."""

from collections import Counter

import pytest

from engine.errors import UserError
from studies.index import STUDIES, find_study
from studies.lab.cells import plan


def folders(name, *words, scale="cpu", **how):
    return {
        (cell.row.name, cell.seed): cell.folder.name
        for cell in plan(find_study(name), scale, "runs", words=words, **how).runs
    }


def test_equal_cells_of_different_studies_share_a_run():
    base = folders("cifar", seeds=3)
    for name, row in (
        ("reduction", "r = 16"),
        ("squeeze", "mean pooling"),
        ("excitation", "Sigmoid"),
        ("stages", "all stages"),
        ("placement", "standard"),
        ("nosqueeze", "SE"),
        ("bias", "with biases"),
    ):
        own = folders(name)
        assert [own[row, seed] for seed in (1, 2, 3)] == [base["se_resnet20_cifar", seed] for seed in (1, 2, 3)], name
    for name in ("reduction", "stages", "nosqueeze"):
        assert folders(name)["no SE", 1] == base["resnet20_cifar", 1]


def test_cells_that_differ_have_folders_of_their_own():
    counted = Counter()
    for name in STUDIES:
        cells = list(folders(name, seeds=2).values())
        assert len(cells) == len(set(cells)), name
        counted.update(cells)
    assert max(counted.values()) > 5


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["LOG_PERIOD", "3"], True),
        (["DATALOADER.NUM_WORKERS", "2"], True),
        (["DATA.CACHE", "elsewhere"], True),
        (["SOLVER.CHECKPOINT_EPOCHS", "3"], True),
        (["TEST.IMS_PER_BATCH", "9"], True),
        (["MODEL.DEVICE", "cpu"], True),
        (["SOLVER.LABEL_SMOOTHING", "0.0"], True),  # as by default
        (["SOLVER.BASE_LR", "0.2"], False),
        (["SOLVER.PRECISION", "fp32"], False),
        (["SEED", "2"], False),
        (["DATA.VAL", "test"], False),
        (["DATA.ROOT", "other"], False),
    ],
)
def test_what_decides_a_run_decides_its_folder(words, same):
    assert (folders("bias", *words) == folders("bias")) == same


def test_a_place_is_one_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert folders("bias", "DATA.ROOT", "data") == folders("bias", "DATA.ROOT", str(tmp_path / "data"))


def test_rows_fit_the_stages_of_the_base_network():
    names = [cell.row.name for cell in plan(STUDIES["stages"], "cpu", "runs").cells if cell.seed == 1]
    assert names == ["no SE", "stage1 alone", "stage2 alone", "all stages", "without stage3"]
    words = ["MODEL.BACKBONE.ARCHITECTURE", "se_resnet50"]
    rows = {cell.row.name: cell.row for cell in plan(STUDIES["stages"], "cpu", "runs", words=words).cells}
    assert list(rows) == ["no SE", "res2 alone", "res3 alone", "res4 alone", "all stages", "without res5"]
    assert [rows[name].paper[0].model for name in list(rows)[1:4]] == ["SE Stage 2", "SE Stage 3", "SE Stage 4"]


def test_a_row_that_a_network_cannot_have_is_refused_by_name():
    with pytest.raises(UserError, match="the row 'pre' .* se_mobilenet_v1 knows standard"):
        plan(STUDIES["placement"], "cpu", "runs", words=["MODEL.BACKBONE.ARCHITECTURE", "se_mobilenet_v1"])


def test_given_weights_stand_in_for_the_training():
    made = plan(STUDIES["crops"], "cpu", "runs", words=["MODEL.WEIGHTS", "some.pth"], seeds=3)
    assert [(cell.row.name, cell.source) for cell in made.runs if cell.evaluates] == [
        ("64 pixels", None),
        ("96 pixels", None),
    ]
    assert [cell.seed for cell in made.runs if not cell.evaluates] == [1, 2, 3]  # what trains on from them
    assert all("some.pth" in cell.words for cell in made.runs)
    trained = plan(STUDIES["crops"], "cpu", "runs", seeds=2)
    assert [cell.source and cell.source.number for cell in trained.runs] == [None, None, *[1, 2] * 3]
    assert all(f"{cell.source.folder}/model_final.pth" in cell.words for cell in trained.cells)


@pytest.mark.parametrize("scale", ["cpu", "paper"])
@pytest.mark.parametrize("name", STUDIES)
def test_every_row_is_a_config_that_can_be_run(name, scale):
    study = STUDIES[name]
    made = plan(study, scale, "runs")
    rows = list(dict.fromkeys(cell.row for cell in made.cells))
    assert len({row.name for row in rows}) == len(rows)
    assert all(study.reference_of(row, rows, scale) in rows for row in rows)
    assert {paper.table for row in rows for paper in row.paper} <= set(study.tables)


def test_wrong_words_are_answered():
    with pytest.raises(UserError, match="there is no study 'reductions'"):
        find_study("reductions")
    with pytest.raises(UserError, match="--seeds must be at least 1"):
        plan(STUDIES["bias"], "cpu", "runs", seeds=0)
