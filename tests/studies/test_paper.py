"""The published figures: all of the file is there, typed, with its sources."""

import json

import pytest

from studies.index import STUDIES
from studies.lab import paper


def test_every_table_of_the_file_can_be_read_with_its_sources():
    content = json.loads(paper.FILE.read_text())
    assert set(paper.tables()) == set(content["tables"]) and len(content["tables"]) == 23
    for name, table in paper.tables().items():
        assert table.sources and all(table.sources) and len(table.rows) == len(content["tables"][name]["rows"])


def test_what_is_from_memory_says_so():
    from_memory = {name for name, table in paper.tables().items() if table.from_memory}
    assert from_memory == {"table7_coco_cvpr2018", "table10_reduction_cvpr2018"}
    assert not any(table.from_memory for study in STUDIES.values() for table in study.published)


def test_a_row_is_in_our_names_and_units():
    row = paper.paper_row("table10_reduction", "16")
    assert dict(row.figures) == {"top1_error": 22.28, "top5_error": 6.03, "parameters": 28_100_000}
    row = paper.paper_row("table3_mobile", "MobileNet 1.0/224", prefix="se_")
    assert dict(row.figures) == {
        "top1_error": 25.3, "top5_error": 7.7, "parameters": 4_700_000, "multiply_adds": 572_000_000,
    }  # fmt: skip
    assert dict(paper.paper_row("table7_coco", "SE-ResNet-50").figures) == {"AP": 40.4, "AP50": 61.0}


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no 'table1'; they have table2_imagenet"):
        paper.paper_row("table1", "16")
    with pytest.raises(ValueError, match="no row '64'; it has 2, 4, 8"):
        paper.paper_row("table10_reduction", "64")
    with pytest.raises(ValueError, match="has none of"):
        paper.paper_row("text_figures", "extra parameters, SE-ResNet-50")


def test_tables_2_to_16_are_attempted():
    attempted = {table.number for study in STUDIES.values() for table in study.published}
    numbers = {table.number for table in paper.tables().values() if table.number.startswith("table")}
    assert numbers == attempted - {"the text"}
