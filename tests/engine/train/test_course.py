"""The best weights are kept, and a training ends where it gets no better or its time is over: the same however often it
was interrupted."""

import math

import pytest
import torch

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.train.best import BEST_FILE, BestModel, Patience, is_better
from engine.train.checkpoint import load_checkpoint, newest_checkpoint
from engine.train.time_limit import TimeLimit
from tests.engine.train.test_schedule import FIGURES, Killed, Run, figures_after
from tests.engine.train.test_trainer import assert_equal, config, make, weights

STEADY = ["SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "()"]
PATIENT = [*STEADY, "SOLVER.PATIENCE", "2"]  # with FIGURES: the best behind 8, no better behind 10 and 12
BEST, END = 8, 12


def best_of(folder):
    content = load_checkpoint(folder / BEST_FILE)
    return content["best"], content["model"]


def test_none_and_nan_are_no_better_and_equals_are_not_either():
    assert is_better(0.0, None) and is_better(1.1, 1.0) and not is_better(1.0, 1.0)
    assert not is_better(None, None) and not is_better(math.nan, None) and not is_better(math.nan, 1.0)


@pytest.mark.parametrize(("evaluations", "ends_behind"), [(0, None), (1, 2), (2, 5), (3, 6)])
def test_patience_counts_evaluations_in_a_row(evaluations, ends_behind):
    patience = Patience(evaluations)
    ended = []
    for figure in (1.0, 2.0, 2.0, 3.0, None, math.nan, 2.9):
        patience.report(figure)
        ended.append(patience.ended)
    assert [index for index, end in enumerate(ended) if end][:1] == ([] if ends_behind is None else [ends_behind])


def test_the_best_weights_are_those_that_had_the_best_figure(tmp_path):
    run = Run(tmp_path, overrides=[*STEADY, "SOLVER.MAX_ITER", "12"])
    seen = {}
    evaluate = run.task.evaluate

    def noting(model):
        seen[run.trainer.iteration] = {name: value.clone() for name, value in model.state_dict().items()}
        return evaluate(model)

    stated = []
    run.task.evaluate = noting
    run.task.stated = lambda figures: stated.append(run.trainer.iteration) or {"of": dict(figures, step=stated[-1])}
    run.train()
    record, model = best_of(tmp_path)
    assert record == {"figure": "toy/sum", "value": 2.0, "iteration": BEST} == run.trainer.outcome["best"]
    assert_equal(model, seen[BEST])
    best, final = load_checkpoint(tmp_path / BEST_FILE), load_checkpoint(tmp_path / "model_final.pth")
    assert best["of"] == {**figures_after(BEST), "step": BEST} and final["of"] == {**figures_after(12), "step": 12}
    assert stated == [2, 4, BEST, 12]  # each better one, and the last; not for weights that are not kept
    assert best.keys() - {"best"} == final.keys() and best["iteration"] == BEST  # the same form for every tool
    assert run.trainer.outcome["ended"] == "all steps were made"


def test_the_averaged_weights_are_the_best_ones_where_they_are_evaluated(tmp_path):
    run = Run(tmp_path, overrides=[*STEADY, "SOLVER.MAX_ITER", "2", "SOLVER.EMA.ENABLED", "True"]).train()
    assert_equal(best_of(tmp_path)[1], dict(run.trainer.evaluated_model.state_dict()))
    assert not torch.equal(best_of(tmp_path)[1]["net.0.weight"], run.trainer.model.net[0].weight)


def test_a_run_that_gets_no_better_ends(tmp_path):
    run = Run(tmp_path, overrides=PATIENT).train()
    assert run.trainer.iteration == run.trainer.max_iterations == END == max(run.rates)
    assert run.trainer.outcome["ended"] == "toy/sum got no better in 2 evaluations (SOLVER.PATIENCE)"
    assert run.trainer.outcome["best"]["iteration"] == BEST
    final = load_checkpoint(tmp_path / "model_final.pth")
    assert final["iteration"] == END == load_checkpoint(newest_checkpoint(tmp_path))["iteration"]
    assert_equal(final["model"], weights(run.trainer))


def assert_same_best(a, b):
    (record, model), (other_record, other_model) = best_of(a), best_of(b)
    assert record == other_record
    assert_equal(model, other_model)


def test_wherever_it_is_killed_it_has_the_same_end_and_the_same_best_weights(tmp_path):
    whole = Run(tmp_path / "whole", overrides=PATIENT).train()
    for moment, (what, step) in enumerate(whole.moments):
        if step not in (8, 12):  # at the best, at the end
            continue
        folder = tmp_path / str(moment)
        with pytest.raises(Killed):
            Run(folder, dies_at=moment, overrides=PATIENT).train()
        resumed = Run(folder, resume=True, overrides=PATIENT).train()
        assert resumed.trainer.outcome == whole.trainer.outcome, (what, step)
        assert_equal(weights(resumed.trainer), weights(whole.trainer))
        assert_same_best(folder, tmp_path / "whole")


def test_more_patience_goes_on_from_the_end(tmp_path):
    more = [*STEADY, "SOLVER.PATIENCE", "3", "SOLVER.MAX_ITER", "20"]
    Run(tmp_path / "a", overrides=PATIENT).train()
    longer = Run(tmp_path / "a", resume=True, overrides=more).train()
    whole = Run(tmp_path / "b", overrides=more).train()
    assert longer.trainer.outcome == whole.trainer.outcome and longer.trainer.iteration == 20
    assert_equal(weights(longer.trainer), weights(whole.trainer))


@pytest.mark.parametrize("damaged", [False, True])
def test_without_the_file_the_best_is_looked_for_anew(tmp_path, damaged, caplog):
    with pytest.raises(Killed):
        Run(tmp_path, dies_at=60, overrides=STEADY).train()
    assert best_of(tmp_path)[0]["iteration"] > 4
    (tmp_path / BEST_FILE).write_bytes(b"PK") if damaged else (tmp_path / BEST_FILE).unlink()
    run = Run(tmp_path, resume=True, overrides=[*STEADY, "SOLVER.MAX_ITER", "30"])
    assert run.trainer.best.record is None and ("looked for anew" in caplog.text) == damaged
    run.train()
    assert best_of(tmp_path)[0] == run.trainer.best.record


def test_another_main_figure_counts_anew(tmp_path):
    best = BestModel(tmp_path)
    best.report("toy/sum", 5.0, 1, dict)
    best.report("toy/mean", 4.0, 2, dict)
    again = BestModel(tmp_path)
    again.resume()
    assert again.record == best.record == {"figure": "toy/mean", "value": 4.0, "iteration": 2}


@pytest.mark.parametrize("period", [0, 30])
def test_patience_without_an_evaluation_before_the_end_is_refused(tmp_path, period):
    with pytest.raises(UserError, match="SOLVER.PATIENCE 2 follows the evaluations, and before the end of the 30"):
        Run(tmp_path, overrides=[*PATIENT, "TEST.EVAL_PERIOD", str(period)])


class Timed(Run):
    """A run on a clock of its own, in seconds."""

    def __init__(self, folder, minutes, step=10.0, evaluation=60.0, saving=3.0, **kwargs):
        super().__init__(folder, **kwargs)
        self.now, self.costs = 0.0, {"step": step, "evaluated": evaluation, "save": saving}
        self.trainer.course.limit = TimeLimit(minutes, clock=lambda: self.now)

    def _at(self, what, batch=None):
        if hasattr(self, "now"):
            self.now += self.costs.get(what, 0.0)
        super()._at(what, batch)


@pytest.mark.parametrize("evaluation", [1.0, 50.0, 120.0])
@pytest.mark.parametrize("period", ["2", "5", "28"])
def test_a_limit_leaves_time_for_the_evaluation_and_little_else(tmp_path, evaluation, period):
    settings = [*STEADY, "TEST.EVAL_PERIOD", period, "SOLVER.CHECKPOINT_PERIOD", "0"]
    run = Timed(tmp_path, 4, evaluation=evaluation, overrides=settings)
    run.trainer.course.limit.note("evaluation", evaluation)  # as of an earlier start
    run.task.evaluate = lambda model: run._at("evaluated") or {"toy": {"sum": 0.0}}
    run.train()
    end = run.trainer.iteration
    assert 0 < end < 28 and run.trainer.outcome["ended"] == "the time limit of 4 minutes (SOLVER.TIME_LIMIT)"
    assert run.moments[-2:] == [("evaluated", end), ("log", end)]  # figures of the final weights
    assert run.now <= 240
    # Another step, its checkpoints and an evaluation would not have fitted, with what is put aside.
    assert run.now + 10 + 1.1 * (10 + 2 * 3 + evaluation) + 12 > 240
    assert load_checkpoint(newest_checkpoint(tmp_path))["iteration"] == end
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == end


def test_an_evaluation_that_was_never_made_gets_a_tenth(tmp_path):
    run = Timed(tmp_path, 5, evaluation=30.0, overrides=[*STEADY, "TEST.EVAL_PERIOD", "0"])
    run.task.evaluate = lambda model: run._at("evaluated") or {"toy": {"sum": 0.0}}
    run.train()
    assert 240 < run.now <= 300


def test_without_a_limit_or_an_evaluation_no_time_is_kept_for_it(tmp_path):
    run = Timed(tmp_path / "none", 0, overrides=STEADY).train()
    assert run.trainer.iteration == 30
    run = Timed(tmp_path / "short", 2, saving=0.0, overrides=STEADY)
    run.task.evaluate = None
    run.train()
    assert run.trainer.iteration == 11  # behind 110 s another one would take 11, and the rest 6


@pytest.mark.parametrize("extra", [STEADY, PATIENT, []])
def test_a_run_in_limited_starts_equals_one_without_a_limit(tmp_path, extra):
    """Also where evaluations end it, which the one more that a limit makes must not touch."""
    whole = Run(tmp_path / "whole", overrides=extra).train()
    run, ends = None, []
    while run is None or "TIME_LIMIT" in run.trainer.outcome["ended"]:
        run = Timed(tmp_path / "cut", 2, step=7.3, evaluation=5.0, resume=bool(ends), overrides=extra)
        run.task.evaluate = lambda model, run=run: (
            run._evaluate(model) if not run.trainer.iteration % 2 else run._at("evaluated") or {"toy": {"sum": -1.0}}
        )
        run.train()
        ends.append(run.trainer.iteration)
        assert run.now <= 120 and len(ends) < 10
    assert len(ends) > 1 and any(end % 2 for end in ends)
    assert run.trainer.outcome == whole.trainer.outcome and ends[-1] == whole.trainer.iteration
    assert_equal(weights(run.trainer), weights(whole.trainer))
    assert_same_best(tmp_path / "cut", tmp_path / "whole")


def test_a_start_that_has_time_for_its_first_evaluation_alone_is_warned_of(tmp_path, caplog):
    """It goes on from a checkpoint whose evaluation was cut off; another one like it would do the same again."""
    with pytest.raises(Killed):
        Run(tmp_path, dies_at=4, overrides=STEADY).train()
    run = Timed(tmp_path, 1, evaluation=50.0, resume=True, overrides=STEADY)
    begun = run.trainer.iteration
    run.task.evaluate = lambda model: run._at("evaluated") or {"toy": {"sum": 0.0}}
    run.train()
    assert run.trainer.iteration == begun == 2 and not run.rates
    assert f"step {begun}: SOLVER.TIME_LIMIT 1 leaves no time for a step behind the evaluation" in caplog.text
    caplog.clear()
    Timed(tmp_path, 2, evaluation=5.0, resume=True, overrides=STEADY).train()
    assert "leaves no time" not in caplog.text


def test_the_evaluation_that_a_limit_makes_may_be_the_best(tmp_path):
    run = Timed(tmp_path, 2, step=7.3, evaluation=5.0, overrides=STEADY)
    run.task.evaluate = lambda model: run._at("evaluated") or {"toy": {"sum": float(run.trainer.iteration)}}
    run.train()
    assert run.trainer.iteration % 2 and best_of(tmp_path)[0]["iteration"] == run.trainer.iteration
    again = Run(tmp_path, resume=True, overrides=STEADY)
    assert again.trainer.best.record == run.trainer.best.record
    assert again.trainer.course.patience.best < run.trainer.iteration  # the patience has not seen it


def test_the_time_of_evaluations_is_known_to_the_next_start(tmp_path):
    run = Timed(tmp_path, 100, evaluation=44.0, overrides=[*STEADY, "SOLVER.MAX_ITER", "6"])
    run.train()
    trainer, _ = make(tmp_path, config("SOLVER.MAX_ITER", "30", "SOLVER.STEPS", "()"), resume=True)
    assert trainer.course.limit.expected("evaluation") == 44.0
    assert len(FIGURES) == 15
