"""Curves: what is drawn from which log."""

import numpy as np
import pytest
from PIL import Image

from detection.task_info import DETECTION
from engine.report import plots


def rows(iterations, **columns):
    return [
        {"iteration": i, **{key.replace("__", "/"): values[index] for key, values in columns.items()}}
        for index, i in enumerate(iterations)
    ]


def is_picture(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 200
        return np.asarray(image.convert("RGB")).std() > 5


def test_a_log_gives_the_curves_that_it_has_data_for(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"iteration": 1, "total_loss": 2.0, "loss_cls": NaN, "lr": 0.1}\n'
        '{"iteration": 2, "total_loss": NaN, "bbox/AP": 3.0}\n{"iter'
    )
    paths = plots.write_training_plots(tmp_path, DETECTION)
    assert [path.name for path in paths] == ["losses.png", "evaluation.png", "learning_rate.png"]
    assert all(is_picture(path) for path in paths)
    assert sorted(tmp_path.glob("plots/*")) == sorted(paths)  # and no temporary file


def test_no_log_and_an_empty_log_give_no_plots(tmp_path):
    assert plots.write_training_plots(tmp_path, DETECTION) == []
    (tmp_path / "metrics.jsonl").write_text("")
    assert plots.write_training_plots(tmp_path, DETECTION) == []
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize("count", [1, 9, 50])
def test_any_number_of_points_draws(tmp_path, count):
    values = list(np.random.default_rng(0).normal(1, 0.1, count))
    data = rows(range(count), total_loss=values, lr=[0.0] * count, images_per_second=values, bbox__AP=values)
    for plot in (plots.plot_losses, plots.plot_learning_rate, plots.plot_throughput):
        assert is_picture(plot(data, tmp_path / "plot.png"))
    assert is_picture(plots.plot_evaluation(data, tmp_path / "plot.png", DETECTION))


def test_negative_and_constant_losses_draw(tmp_path):
    assert is_picture(plots.plot_losses(rows(range(20), total_loss=[-1.0] * 20), tmp_path / "a.png"))
    assert is_picture(plots.plot_losses(rows(range(20), total_loss=[0.0] * 20), tmp_path / "b.png"))


def test_the_validation_loss_is_drawn_beside_the_trainings(tmp_path):
    data = rows(range(20), total_loss=[1.0] * 20)
    data[9]["validation/total_loss"], data[19]["validation/total_loss"] = 3.0, 2.0
    pictures = []
    for name in ("with", "without"):
        with Image.open(plots.plot_losses(data, tmp_path / f"{name}.png")) as image:
            pictures.append(np.asarray(image.convert("L")))
        for row in data:
            row.pop("validation/total_loss", None)
    assert pictures[0].shape != pictures[1].shape or (pictures[0] != pictures[1]).any()
    assert plots.plot_losses([{"iteration": 1, "validation/total_loss": 1.0}], tmp_path / "none.png") is None


def test_smoothing_keeps_a_line_a_line_and_a_spike_out():
    constant = np.full(50, 3.0)
    np.testing.assert_allclose(plots.smooth(constant), constant)
    spiked = constant.copy()
    spiked[20] = 1000.0
    np.testing.assert_allclose(plots.smooth(spiked), constant)
    line = np.arange(100.0)
    np.testing.assert_allclose(plots.smooth(line)[5:-5], line[5:-5])
    assert len(plots.smooth([1.0, 5.0])) == 2


def test_comparison_draws_every_run_and_names_the_one_without_the_metric(tmp_path):
    runs = {"SE": rows([1, 2], bbox__AP=[1.0, 2.0]), "plain": rows([1, 2], bbox__AP=[1.0, 1.5])}
    assert is_picture(plots.plot_comparison(runs, "bbox/AP", tmp_path / "ap.png"))
    runs["other"] = rows([1], total_loss=[1.0])
    with pytest.raises(ValueError, match="'other' has no finite value of 'bbox/AP'"):
        plots.plot_comparison(runs, "bbox/AP", tmp_path / "ap.png")
    losses = {name: rows(range(30), total_loss=list(np.linspace(2, 1, 30))) for name in ("SE", "plain")}
    assert is_picture(plots.plot_comparison(losses, "total_loss", tmp_path / "loss.png"))
