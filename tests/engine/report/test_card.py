"""The card of a run's model: what is known stands in it, and nothing else."""

import json

import pytest

from detection.task_info import DETECTION
from engine.report.card import NAME, is_card, write_card
from engine.run.folder import of_the_run
from tests.engine.report.test_summary import run  # noqa: F401  (a fixture)


def test_what_is_known_stands_in_it(run):  # noqa: F811
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text()
        + "INPUT:\n  FORMAT: BGR\n  MIN_SIZE_TEST: 256\n  MAX_SIZE_TEST: 400\n"
        + "SOLVER: {IMS_PER_BATCH: 4}\n"
    )
    result = json.loads((run / "result.json").read_text())
    result |= {"command": "python tools/train_net.py --config a_b.yaml", "parameters": 26_416_735}
    (run / "result.json").write_text(json.dumps(result))
    path = write_card(run, DETECTION)
    text = path.read_text(encoding="utf-8")
    assert path == run / NAME and is_card(path) and text.startswith("---\nlibrary_name: se-backbones\n")
    for words in (
        "# Faster R-CNN with se\\_resnet50 on bccd/val",
        "In percent, of 73 images of bccd/val.",
        "| Box AP | AP50 | 91.20 |",
        "| Squeeze-and-Excitation | reduction 16, gate sigmoid |",
        "| Parameters | 26.4 million |",
        "| Images | shorter side 256, longer at most 400 pixels |",
        "| Order of the channels | BGR |",
        '3 classes, in the order of their indices:\n\n```\n"RBC", "WBC", "Platelets"\n```',
        "```\npython tools/train_net.py --config a_b.yaml\n```",
        "| Versions | torch 2.14.1 |",
        "python tools/predict.py --weights",
    ):
        assert words in text, words
    assert "Less, of each channel" not in text and "icence" not in text and "None" not in text


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "metrics.jsonl"])
def test_a_file_that_is_missing_leaves_its_part_out(run, name):  # noqa: F811
    (run / name).unlink()
    text = write_card(run, DETECTION).read_text(encoding="utf-8")
    assert ("## Figures" in text, "beside this page" in text) == (name != "result.json", name != "config.yaml")
    assert "None" not in text and "||" not in text


def test_names_that_mean_something_in_markdown_are_shown_by_the_letter(run):  # noqa: F811
    result = {"bbox": {"AP": 1.0}, "dataset": "a|b*c\nd", "images": 2}
    (run / "result.json").write_text(json.dumps(result))
    (run / "config.yaml").unlink()
    text = write_card(run, DETECTION).read_text(encoding="utf-8")
    assert "of 2 images of a\\|b\\*c d." in text


def test_a_persons_own_page_is_left_alone_and_a_card_goes_with_its_run(run):  # noqa: F811
    write_card(run, DETECTION)
    assert run / NAME in of_the_run(run, DETECTION)
    before = (run / NAME).read_text()
    assert write_card(run, DETECTION) == run / NAME and (run / NAME).read_text() == before
    (run / NAME).write_text("# My notes\n")
    assert write_card(run, DETECTION) is None and (run / NAME).read_text() == "# My notes\n"
    assert run / NAME not in of_the_run(run, DETECTION)
