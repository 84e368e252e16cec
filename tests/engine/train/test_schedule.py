"""A rate that follows the evaluations, and statistics that are kept: the same wherever a run was interrupted."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist

from engine import compat  # noqa: F401  (before detectron2)
from engine.errors import UserError
from engine.train.best import BEST_FILE
from engine.train.checkpoint import load_checkpoint, newest_checkpoint
from engine.train.launch import leave_processes
from engine.train.schedule import Plateau, build_schedule
from engine.train.stopping import Stopped
from engine.train.time_limit import TimeLimit
from tests.engine.train.test_trainer import DATA, assert_equal, config, make, weights
from tests.processes import in_two_processes

PLATEAU = ["SOLVER.LR_SCHEDULER_NAME", "Plateau", "SOLVER.PLATEAU.PATIENCE", "2", "SOLVER.PLATEAU.DROPS", "2"]
SETTINGS = [
    *PLATEAU, "TEST.EVAL_PERIOD", "2", "SOLVER.MAX_ITER", "30", "SOLVER.CHECKPOINT_PERIOD", "5",
    "SOLVER.PLATEAU.THRESHOLD", "0.5", "SOLVER.WARMUP_ITERS", "3",
]  # fmt: skip
# After 2, 4, 6 … steps: the first, not better by enough, worse (drop behind 6), better, worse, none (drop behind 12),
# better, no number, worse (the end behind 18).
FIGURES = [1.0, 1.5, 1.2, 2.0, 1.0, None, 2.6, float("nan"), 2.5, 9.0, 9.1, 9.2, 9.3, 9.4, 9.5]
DROPS, END = (6, 12), 18


def figures_after(steps):
    return {"toy": {"sum": FIGURES[steps // 2 - 1]}}


def schedule(**keys):
    words = [word for key, value in keys.items() for word in (f"SOLVER.{key.replace('__', '.')}", str(value))]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    cfg = config("SOLVER.LR_SCHEDULER_NAME", "Plateau", "TEST.EVAL_PERIOD", "1", *words)
    return build_schedule(cfg, optimizer), optimizer


@pytest.mark.parametrize("patience", [1, 2, 5])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_drops_are_where_torch_has_them(patience, threshold):
    figures = np.random.default_rng(patience).normal(size=200).cumsum().tolist()
    ours, optimizer = schedule(
        PLATEAU__PATIENCE=patience, PLATEAU__THRESHOLD=threshold, PLATEAU__DROPS=1000, WARMUP_ITERS=0
    )
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
        "max", factor=0.5, patience=patience - 1, threshold=threshold, threshold_mode="abs", eps=0,
    )  # fmt: skip
    drops = []
    for figure in figures:
        ours.report(figure)
        theirs.step(figure)
        drops.append((ours.drops, round(-np.log2(theirs.optimizer.param_groups[0]["lr"]))))
    assert all(a == b for a, b in drops) and drops[-1][0] > 5
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.1**ours.drops


def test_a_figure_must_be_above_the_threshold_and_none_is_no_better_one():
    ours, _ = schedule(PLATEAU__PATIENCE=3, PLATEAU__THRESHOLD=0.5)
    for figure, waited in ((1.0, 0), (1.5, 1), (1.6, 0), (None, 1), (float("nan"), 2), (2.2, 0)):
        ours.report(figure)
        assert (ours.waited, ours.drops) == (waited, 0)


def test_it_ends_at_the_plateau_behind_the_last_drop():
    ours, _ = schedule(PLATEAU__PATIENCE=2, PLATEAU__DROPS=2)
    ours.report(5.0)
    seen = []
    for _ in range(6):
        ours.report(1.0)
        seen.append((ours.drops, ours.ended))
    assert seen == [(0, False), (1, False), (1, False), (2, False), (2, False), (2, True)]


@pytest.mark.parametrize("method", ["linear", "constant"])
def test_its_warm_up_is_that_of_the_others(method):
    cfg = config(
        "SOLVER.WARMUP_ITERS", "7", "SOLVER.WARMUP_METHOD", method, "TEST.EVAL_PERIOD", "2", "SOLVER.STEPS", "()"
    )
    rates = []
    for name in ("Plateau", "WarmupMultiStepLR"):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.LR_SCHEDULER_NAME = name
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler = build_schedule(cfg, optimizer)
        rates.append([])
        for _ in range(cfg.SOLVER.MAX_ITER):
            rates[-1].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    np.testing.assert_allclose(*rates, rtol=1e-12)


@pytest.mark.parametrize("period", [0, 12, 20])
def test_without_an_evaluation_before_the_end_it_is_refused(tmp_path, period):
    with pytest.raises(UserError, match="Plateau follows the evaluations, and before the end of the 12 steps"):
        make(tmp_path, config(*PLATEAU, "TEST.EVAL_PERIOD", str(period)))


class Killed(BaseException):
    pass


class Run:
    """A run whose figures are scripted, and which dies at one of its moments.

    Attributes:
        moments: what happened, in order: ("step" | "save" | "evaluate" | "evaluated" | "log", steps made).
        rates: the learning rate of each step that was made.
    """

    def __init__(self, folder, resume=False, dies_at=None, overrides=()):
        self.trainer, self.task = make(
            folder, config(*SETTINGS, *overrides), resume, on_batch=partial(self._at, "step")
        )
        self.moments, self.rates, self.dies_at = [], {}, dies_at
        self.task.evaluate = self._evaluate
        save, step = self.trainer._save, self.trainer._step
        self.trainer._save = lambda task: (self._at("save"), save(task))
        self.trainer._step = lambda *args: (self._note_rate(), step(*args))

    def _note_rate(self):
        self.rates[self.trainer.iteration + 1] = self.trainer.optimizer.param_groups[0]["lr"]

    def _at(self, what, _=None):
        self.moments.append((what, self.trainer.iteration))
        if len(self.moments) - 1 == self.dies_at:
            raise Killed

    def _evaluate(self, model):
        self._at("evaluate")
        figures = figures_after(self.trainer.iteration)
        self._at("evaluated")
        return figures

    def train(self):
        self.trainer.train(self.task, [self])
        return self

    def write(self):  # as a writer of the log
        self._at("log")

    def close(self):
        pass


def test_the_rate_drops_behind_the_plateaus_and_the_last_one_ends_the_run(tmp_path):
    run = Run(tmp_path).train()
    assert run.trainer.iteration == run.trainer.max_iterations == END and max(run.rates) == END
    rates = [run.rates[step] for step in range(4, END + 1)]  # behind the warm-up
    assert rates == [0.1 * 0.1 ** sum(step > drop for drop in DROPS) for step in range(4, END + 1)]
    final = load_checkpoint(tmp_path / "model_final.pth")
    assert final["iteration"] == END
    assert_equal(final["model"], weights(run.trainer))


def test_wherever_it_is_killed_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    whole = Run(tmp_path / "whole").train()
    kinds = {what for what, _ in whole.moments}
    assert kinds == {"step", "save", "evaluate", "evaluated", "log"}
    for moment, (what, step) in enumerate(whole.moments):
        if step not in (2, 5, 6, 7, 12, 18):  # better, a periodic checkpoint, a drop, behind it, another, the end
            continue
        folder = tmp_path / str(moment)
        killed = Run(folder, dies_at=moment)
        with pytest.raises(Killed):
            killed.train()
        resumed = Run(folder, resume=newest_checkpoint(folder) is not None).train()
        assert resumed.trainer.iteration == END, (what, step)
        assert {**killed.rates, **resumed.rates} == whole.rates, (what, step)
        assert_equal(weights(resumed.trainer), weights(whole.trainer))
        assert_equal(load_checkpoint(folder / "model_final.pth")["model"], weights(whole.trainer))


def test_a_run_that_its_schedule_ended_is_whole_and_ends_again(tmp_path):
    whole = Run(tmp_path).train()
    (tmp_path / "model_final.pth").unlink()
    again = Run(tmp_path, resume=True).train()
    assert again.moments == [("evaluate", END), ("evaluated", END), ("log", END)] and not again.rates
    assert_equal(load_checkpoint(tmp_path / "model_final.pth")["model"], weights(whole.trainer))
    assert_equal(weights(again.trainer), weights(whole.trainer))


def test_a_drop_more_goes_on_from_where_the_schedule_ended_the_run(tmp_path):
    Run(tmp_path / "a").train()
    more = ["SOLVER.PLATEAU.DROPS", "3", "SOLVER.MAX_ITER", "20"]
    longer, whole = (
        Run(tmp_path / "a", resume=True, overrides=more).train(),
        Run(tmp_path / "b", overrides=more).train(),
    )
    assert longer.trainer.iteration == 20 and longer.rates == {step: whole.rates[step] for step in (19, 20)}
    assert_equal(weights(longer.trainer), weights(whole.trainer))


def test_a_signal_in_an_evaluation_leaves_the_figure_to_the_resumed_run(tmp_path):
    whole = Run(tmp_path / "whole").train()
    run = Run(tmp_path / "cut")
    run.task.evaluate = lambda model: (_ for _ in ()).throw(Stopped("SIGTERM", run.trainer.iteration, tmp_path))
    with pytest.raises(Stopped):
        run.train()
    assert load_checkpoint(newest_checkpoint(tmp_path / "cut"))["scheduler"]["best"] is None
    assert_equal(weights(Run(tmp_path / "cut", resume=True).train().trainer), weights(whole.trainer))


def test_a_resumed_run_takes_the_configs_rates_and_rule(tmp_path):
    moments = Run(tmp_path / "whole").train().moments
    with pytest.raises(Killed):
        Run(tmp_path / "cut", dies_at=moments.index(("step", 11))).train()
    again = Run(tmp_path / "cut", resume=True, overrides=["SOLVER.BASE_LR", "0.02", "SOLVER.GAMMA", "0.5"])
    assert again.trainer.scheduler.drops == 1 and again.trainer.optimizer.param_groups[0]["lr"] == 0.02 * 0.5


def test_a_run_of_another_schedule_begins_to_count_where_it_is_resumed(tmp_path):
    first, task = make(tmp_path, config("SOLVER.MAX_ITER", "10", "SOLVER.STEPS", "()"))
    first.train(task, [])
    again = Run(tmp_path, resume=True)
    assert isinstance(again.trainer.scheduler, Plateau) and again.trainer.scheduler.best is None
    again.train()  # begins with the evaluation behind step 10
    assert again.trainer.scheduler.best == 9.0 and again.trainer.iteration == 28  # drops behind 18 and 24


def _process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    trainer, task = make(folder / str(rank), config(*SETTINGS), data=DATA * (rank + 1))
    task.evaluate = lambda model: figures_after(trainer.iteration) if rank == 0 else {}
    trainer.train(task, [])
    lr = trainer.optimizer.param_groups[0]["lr"]

    kept, task = make(folder / f"{rank}_kept", keeping(3, "SOLVER.MAX_ITER", "8"), data=DATA * (rank + 1))
    task.evaluate = None  # before which all get the first one's statistics, whether or not these were kept
    kept.train(task, [])
    limited, task = make(folder / f"{rank}_limited", config("SOLVER.STEPS", "()"), data=DATA * (rank + 1))
    clock = iter(range(0, 10**9, 1 if rank == 0 else 1000))  # the other process's has nothing to say
    limited.course.limit = TimeLimit(0.5, clock=lambda: next(clock))
    limited.train(task, [])
    content = {"steps": trainer.iteration, "lr": lr, "plateau": weights(trainer), "kept": weights(kept)}
    content["limited"] = limited.iteration
    dist.barrier()  # both read the checkpoint of one process before the first of them writes another
    torch.save({**content, "shared": part(folder, 5, 9)}, folder / f"{rank}.pth")
    leave_processes()


def part(folder, begin, end, name="parts"):
    """The steps between, of a run in as many processes as there are; the rows that this one saw in each of them,
    the weights, and the number that the network keeps of its rows.

    In 64 bits, without dropout and BatchNorm, and with a loss that is a mean over the rows: what is computed does not
    depend on who computes it, but for the order of sums.
    """
    cfg = config("SOLVER.CHECKPOINT_PERIOD", "0")
    torch.set_default_dtype(torch.float64)
    try:
        trainer, task = make(folder / name, cfg, norm=False, data=DATA.double(), resume=begin > 0)
    finally:
        torch.set_default_dtype(torch.float32)
    seen, trainer.course.max_iterations = [], end

    def losses(model, batch):
        seen.append(batch)
        return {"loss": model(batch)["loss_a"]}

    task.losses, task.evaluate = losses, None
    assert trainer.iteration == begin
    trainer.train(task, [])
    return seen, weights(trainer), trainer.model.level


def test_processes_drop_and_end_together_and_keep_the_same_statistics(tmp_path):
    """The first process alone has figures, and each sees other images. And a run goes on in another number of them."""
    whole, expected, _ = part(tmp_path, 0, 12, "whole")
    alone, _, _ = part(tmp_path, 0, 5)
    in_two_processes(_process, tmp_path)
    shares = [torch.load(tmp_path / f"{rank}.pth")["shared"] for rank in range(2)]
    alone_again, end, _ = part(tmp_path, 9, 12)
    together = [torch.cat(rows) for rows in zip(*(seen for seen, *_ in shares), strict=True)]
    assert torch.equal(torch.stack([*alone, *together, *alone_again]), torch.stack(whole))
    assert_equal(shares[0][1], shares[1][1])
    torch.testing.assert_close(end, expected)
    saved = load_checkpoint(tmp_path / "parts" / "checkpoint_0000009.pth")
    assert saved["processes"] == 2
    assert saved["plain_numbers"] == [{"level": level} for *_, level in shares] and shares[0][2] != shares[1][2]

    a, b = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert a["steps"] == b["steps"] == END and a["lr"] == b["lr"] == pytest.approx(0.1 * 0.1**2)
    for run in ("plateau", "kept"):
        assert all(torch.equal(a[run][name], b[run][name]) for name in a[run] if name.endswith(("weight", "bias")))
    assert_equal(a["kept"], b["kept"])
    assert 0 < a["limited"] == b["limited"] < 12  # a second, of 30, for each look at the clock
    assert (tmp_path / "0" / BEST_FILE).exists() and not (tmp_path / "1" / BEST_FILE).exists()
    assert not torch.equal(a["plateau"]["net.1.running_var"], 4 * b["plateau"]["net.1.running_var"])


def keeping(steps, *overrides):
    cfg = config(*overrides).clone()
    cfg.defrost()
    cfg.SOLVER.FREEZE_NORM_ITERS = steps
    return cfg


def statistics(trainer):
    return {name: value for name, value in weights(trainer).items() if "running" in name or "tracked" in name}


def train_and_look(folder, cfg, resume=False, kill_at=None):
    """A run, and before each of its steps the statistics of BatchNorm; it dies at ``kill_at``."""
    seen = {}

    def on_batch(step):
        seen[step] = statistics(trainer)
        if step == kill_at:
            raise Killed

    trainer, task = make(folder, cfg, resume, on_batch=on_batch)
    if kill_at is None:
        trainer.train(task, [])
    else:
        with pytest.raises(Killed):
            trainer.train(task, [])
    return trainer, seen


def test_statistics_are_kept_in_the_last_steps_and_the_rest_is_trained_on(tmp_path):
    trainer, seen = train_and_look(tmp_path / "kept", keeping(5))
    plain, _ = train_and_look(tmp_path / "plain", keeping(0))
    assert seen[7]["net.1.num_batches_tracked"] == 7 and statistics(plain)["net.1.num_batches_tracked"] == 12
    for step in range(1, 8):
        assert not torch.equal(seen[step]["net.1.running_mean"], seen[step - 1]["net.1.running_mean"])
    for step in range(8, 12):
        assert_equal(seen[step], seen[7])
    assert_equal(statistics(trainer), seen[7])
    half, _ = train_and_look(tmp_path / "half", config("SOLVER.MAX_ITER", "7"))
    assert not torch.equal(trainer.model.net[1].weight, half.model.net[1].weight)
    assert load_checkpoint(tmp_path / "kept" / "model_final.pth")["model"].keys() == plain.model.state_dict().keys()


def test_kept_statistics_normalise_each_row_by_itself(tmp_path):
    """With them, a row's output does not depend on the others: what an evaluation would give."""
    trainer, _ = make(tmp_path, keeping(12))
    model = trainer.model.train()
    trainer.kept_statistics.begin(0)
    model.net[2].eval()  # dropout
    with torch.no_grad():
        together, alone = model.net(DATA), torch.cat([model.net(row[None]) for row in DATA])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("kill_at", [3, 6, 8, 11])
def test_a_resumed_run_keeps_the_same_statistics(tmp_path, kill_at):
    whole, _ = train_and_look(tmp_path / "whole", keeping(5, "SOLVER.CHECKPOINT_PERIOD", "2"))
    cfg = keeping(5, "SOLVER.CHECKPOINT_PERIOD", "2")
    train_and_look(tmp_path / "cut", cfg, kill_at=kill_at)
    resumed, _ = train_and_look(tmp_path / "cut", cfg, resume=True)
    assert_equal(weights(resumed), weights(whole))
