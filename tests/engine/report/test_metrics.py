"""The log of a run, read as kills and resumes leave it."""

import math

from engine.report.metrics import loss_names, read_metrics, series


def write(tmp_path, *lines):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_the_last_record_of_an_iteration_wins_key_by_key(tmp_path):
    path = write(
        tmp_path,
        '{"iteration": 10, "total_loss": 5.0, "lr": 0.1}',
        '{"iteration": 20, "total_loss": 4.0}',
        '{"iteration": 10, "total_loss": 3.0}',
        '{"iteration": 20, "bbox/AP": 12.5}',
    )
    assert read_metrics(path) == [
        {"iteration": 10, "total_loss": 3.0, "lr": 0.1},
        {"iteration": 20, "total_loss": 4.0, "bbox/AP": 12.5},
    ]


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    path = write(
        tmp_path,
        "",
        "[1, 2]",
        "no json",
        '{"total_loss": 1.0}',
        '{"iteration": "7"}',
        '{"iteration": 1, "tot{"iteration": 2, "total_loss": 2.0}',  # a kill, and the resumed run behind it
        '{"iteration": 3, "total_loss": 1.0}',
        '{"iteration": 4, "total_l',
    )
    assert read_metrics(path) == [{"iteration": 2, "total_loss": 2.0}, {"iteration": 3, "total_loss": 1.0}]


def test_what_is_not_finite_stays_in_the_rows_and_out_of_the_curves(tmp_path):
    path = write(tmp_path, '{"iteration": 1, "a": NaN}', '{"iteration": 2, "a": 1}', '{"iteration": 3, "a": Infinity}')
    rows = read_metrics(path)
    assert math.isnan(rows[0]["a"])
    assert series(rows, "a") == ([2], [1])
    assert series(rows, "b") == ([], [])


def test_losses_are_found_by_name_and_the_total_comes_first():
    rows = [{"iteration": 1, "loss_cls": 1.0, "lr": 1.0, "closs_x": 1.0, "total_loss": 2.0, "loss_text": "x"}]
    assert loss_names(rows) == ["total_loss", "loss_cls"]
