"""The training loop on a small network: what must be equal, and what must be said."""

import json
import os
import signal

import pytest
import torch
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.defaults import add_engine_defaults
from engine.config.dialect import load_config
from engine.errors import UserError
from engine.logs.writers import make_writers
from engine.run.experiment import naming_the_weights
from engine.task import TaskInfo
from engine.train import stopping
from engine.train.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from engine.train.losses import NonFiniteLoss
from engine.train.sampling import TrainingBatches
from engine.train.schedule import build_schedule
from engine.train.stopping import Stopped
from engine.train.trainer import Task, Trainer

from detectron2.config import get_cfg
from detectron2.utils import comm

TOYS = TaskInfo("toy", "Toys", (), {"toy": "Toys"}, ("sum",), "found.json", "train.py", "predict.py")
DATA = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))


class Network(nn.Module):
    """Dropout, BatchNorm and a plain number, as RetinaNet has one: the kinds of state that a resumed run must have
    right."""

    def __init__(self, norm=True):
        super().__init__()
        self.norm = norm
        self.net = nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8) if norm else nn.Identity(),
            nn.Dropout(0.3 * norm),
            nn.Linear(8, 1),
        )

    def forward(self, batch):
        out = self.net(batch)
        self.level = 0.9 * getattr(self, "level", 1.0) + 0.1 * (1 + out.square().mean().item())
        return {"loss_a": out.square().mean() / (self.level if self.norm else 1), "loss_b": (out.mean() - 1).abs()}


def config(*overrides):
    defaults = add_engine_defaults(get_cfg())
    defaults.SEED = 1
    base = [
        "SOLVER.MAX_ITER",
        "12",
        "SOLVER.IMS_PER_BATCH",
        "4",
        "SOLVER.BASE_LR",
        "0.1",
        "SOLVER.CHECKPOINT_PERIOD",
        "5",
    ]
    return load_config(
        defaults,
        None,
        [*base, "SOLVER.WARMUP_ITERS", "3", "LOG_PERIOD", "2", "SOLVER.PRECISION", "fp32", *overrides],
    )


def make(tmp_path, cfg, resume=False, norm=True, data=DATA, on_batch=None):
    torch.manual_seed(0)
    trainer = Trainer(
        Network(norm),
        cfg,
        lambda o: build_schedule(cfg, o),
        tmp_path,
        load_checkpoint(newest_checkpoint(tmp_path)) if resume else None,
    )

    def batches():
        first, share = trainer.iteration, {"rank": comm.get_rank(), "world_size": comm.get_world_size()}
        order = TrainingBatches(len(data), cfg.SOLVER.IMS_PER_BATCH, 1, start=first, end=cfg.SOLVER.MAX_ITER, **share)
        for step, positions in enumerate(order, first):
            if on_batch:
                on_batch(step)
            yield data[[index for _, index in positions]]

    task = Task(
        batches=batches(),
        name_images=lambda batch: f"{len(batch)} rows",
        advice="cleaner rows",
        split=lambda batch, parts: list(batch.chunk(parts)),
        evaluate=lambda model: {"toy": {"sum": float(sum(p.sum() for p in model.parameters()))}},
        describe={"task": "toy"},
        main_figure="toy/sum",
    )
    return trainer, task


def weights(trainer):
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@pytest.mark.parametrize("extra", [[], ["SOLVER.EMA.ENABLED", "True"], ["SOLVER.OPTIMIZER", "AdamW"]])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, extra):
    whole, task = make(tmp_path / "whole", config(*extra))
    whole.train(task, [])

    class Killed(BaseException):
        pass

    def kill(step):
        if step == 8:
            raise Killed

    first, task = make(tmp_path / "cut", config(*extra), on_batch=kill)
    with pytest.raises(Killed):
        first.train(task, [])
    torch.rand(7)  # another history of the global generator
    second, task = make(tmp_path / "cut", config(*extra), resume=True)
    assert second.iteration == 5
    second.train(task, [])
    assert_equal(weights(whole), weights(second))
    assert_equal(dict(whole.evaluated_model.state_dict()), dict(second.evaluated_model.state_dict()))


@pytest.mark.parametrize("process, expected", [(0, 2.0), (1, 3.0), (2, 2.0)])  # a third one has none of its own
def test_each_process_goes_on_with_the_numbers_of_its_own_images(tmp_path, process, expected, monkeypatch):
    trainer, task = make(tmp_path, config("SOLVER.MAX_ITER", "1"))
    trainer.train(task, [])
    path = newest_checkpoint(tmp_path)
    content = load_checkpoint(path)
    assert content["plain_numbers"] == [{"level": trainer.model.level}]
    save_checkpoint(path, {**content, "plain_numbers": [{"level": 2.0}, {"level": 3.0}]})
    monkeypatch.setattr(comm, "get_rank", lambda: process)
    assert make(tmp_path, config(), resume=True)[0].model.level == expected
    del content["plain_numbers"]  # a checkpoint of an earlier version
    save_checkpoint(path, content)
    assert not hasattr(make(tmp_path, config(), resume=True)[0].model, "level")


@pytest.mark.parametrize("numbers", [{"other.level": 2.0}, {"level": "2"}, {"forward": None}])
def test_numbers_that_have_no_place_are_refused(tmp_path, numbers):
    trainer, task = make(tmp_path, config("SOLVER.MAX_ITER", "1"))
    trainer.train(task, [])
    path = newest_checkpoint(tmp_path)
    save_checkpoint(path, {**load_checkpoint(path), "plain_numbers": [numbers]})
    with pytest.raises(UserError, match="does not fit the config.*no place for the number"):
        make(tmp_path, config(), resume=True)


def test_accumulation_equals_the_large_batch_where_no_batch_norm_is_involved(tmp_path):
    results = []
    for parts in (1, 2, 4):
        cfg = config("SOLVER.ACCUMULATE", str(parts))
        torch.manual_seed(0)
        trainer, task = make(tmp_path / str(parts), cfg, norm=False)
        trainer.model.forward = lambda batch, m=trainer.model: {"loss": m.net(batch).square().mean()}
        trainer.train(task, [])
        results.append(weights(trainer))
    for other in results[1:]:
        for key in other:
            torch.testing.assert_close(other[key], results[0][key], rtol=1e-5, atol=1e-7)


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(tmp_path):
    data = DATA.clone()
    data[13] = float("nan")
    trainer, task = make(tmp_path, config(), data=data)
    with pytest.raises(NonFiniteLoss, match=r"step \d+.*loss_a nan.*4 rows.*BASE_LR.*or cleaner rows, and") as error:
        trainer.train(task, [])
    assert f"step {trainer.iteration + 1}:" in str(error.value)
    assert "WARMUP" not in str(error.value) and "annotations" not in str(error.value)  # the task's own advice alone
    assert all(p.isfinite().all() for p in trainer.model.parameters())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    trainer, task = make(tmp_path, config(), on_batch=lambda step: step == 6 and os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="step 7.*--resume"):
        trainer.train(task, [])
    assert signal.getsignal(number) is before
    content = load_checkpoint(newest_checkpoint(tmp_path))
    assert content["iteration"] == 7
    assert_equal(content["model"], weights(trainer))


@pytest.mark.parametrize(("period", "last"), [("0", 7), ("7", 6)])
def test_a_stop_loses_no_line_of_the_log(tmp_path, period, last):
    """Where an evaluation belongs to the step, the next start writes one line of both."""
    cfg = config("LOG_PERIOD", "1", "TEST.EVAL_PERIOD", period)
    trainer, task = make(tmp_path, cfg, on_batch=lambda step: step == 6 and os.kill(os.getpid(), signal.SIGTERM))
    written = []

    class Lines:
        def write(self):
            written.append(trainer.iteration)

        def close(self):
            pass

    with pytest.raises(Stopped, match="after step 7"):
        trainer.train(task, [Lines()])
    assert written == list(range(1, last + 1))


def test_a_signal_that_is_passed_on_twice_is_one_request(tmp_path):
    def signal_thrice(step):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT) if step == 6 else ():
            signal.raise_signal(number)

    trainer, task = make(tmp_path, config(), on_batch=signal_thrice)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 7"):
        trainer.train(task, [])
    assert load_checkpoint(newest_checkpoint(tmp_path))["iteration"] == 7


def test_a_later_signal_ends_the_run_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "_ONE_REQUEST", -1)
    trainer, task = make(tmp_path, config(), on_batch=lambda step: signal.raise_signal(signal.SIGTERM))
    task.losses = lambda *_: signal.raise_signal(signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(task, [])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_during_an_evaluation_does_not_wait_for_its_end(tmp_path):
    trainer, task = make(tmp_path, config("TEST.EVAL_PERIOD", "4"))
    task.evaluate = lambda model: os.kill(os.getpid(), signal.SIGTERM) or pytest.fail("the evaluation went on")
    with pytest.raises(Stopped):
        trainer.train(task, [])
    assert load_checkpoint(newest_checkpoint(tmp_path))["iteration"] == 4


def test_averaged_weights_are_the_average(tmp_path):
    cfg = config("SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.2", "SOLVER.MAX_ITER", "3")
    trainer, task = make(tmp_path, cfg)
    history = []
    step = trainer._step
    trainer._step = lambda *a: (step(*a), history.append(trainer.model.net[0].weight.detach().clone()))
    trainer.train(task, [])
    expected = history[0]
    for steps, weights_now in ((1, history[1]), (2, history[2])):
        decay = min(0.2, (1 + steps) / (10 + steps))  # 2/11, then 0.2
        expected = expected * decay + weights_now * (1 - decay)
    torch.testing.assert_close(trainer.evaluated_model.net[0].weight, expected)
    final = load_checkpoint(trainer.save_final(task))
    torch.testing.assert_close(final["model"]["net.0.weight"], expected)
    assert "optimizer" not in final


@pytest.mark.parametrize("kind, value", [("full_model", 0.01), ("norm", 0.01), ("value", 0.001)])
def test_gradients_are_clipped(tmp_path, kind, value):
    clip = [
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        "True",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        kind,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
        str(value),
    ]
    trainer, task = make(tmp_path, config("SOLVER.MAX_ITER", "1", *clip))
    trainer.train(task, [])
    grads = [p.grad for p in trainer.model.parameters()]
    if kind == "value":
        assert max(g.abs().max() for g in grads) <= value
    elif kind == "norm":
        assert max(g.norm() for g in grads) <= value * 1.001
    else:
        assert torch.stack([g.norm() for g in grads]).norm() == pytest.approx(value, rel=1e-3)


def test_the_log_has_every_figure_once_after_a_resume(tmp_path):
    cfg = config("TEST.EVAL_PERIOD", "5")

    class Killed(BaseException):
        pass

    def kill(step):
        if step == 8:
            raise Killed

    trainer, task = make(tmp_path, cfg, on_batch=kill)
    with pytest.raises(Killed):
        trainer.train(task, make_writers(tmp_path, 12, 0))
    trainer, task = make(tmp_path, cfg, resume=True)
    trainer.train(task, make_writers(tmp_path, 12, trainer.iteration))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [row["iteration"] for row in rows if "total_loss" in row]
    assert logged == sorted(set(logged)) and {2, 4, 6, 8, 10, 12} <= set(logged)
    assert {row["iteration"] for row in rows if "toy/sum" in row} == {5, 10, 12}
    assert {"lr", "images_per_second", "eta_seconds", "loss_a", "loss_b"} <= rows[-1].keys()


def test_a_resumed_run_takes_the_configs_learning_rate(tmp_path):
    class Killed(BaseException):
        pass

    def kill(step):
        if step == 8:
            raise Killed

    trainer, task = make(tmp_path, config(), on_batch=kill)
    with pytest.raises(Killed):
        trainer.train(task, [])
    before = trainer.optimizer.param_groups[0]["lr"]
    again, _ = make(tmp_path, config("SOLVER.BASE_LR", "0.01", "SOLVER.WEIGHT_DECAY", "0.5"), resume=True)
    group = again.optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(before / 10) and group["weight_decay"] == 0.5
    with pytest.raises(UserError, match="SOLVER.OPTIMIZER"):
        make(tmp_path, config("SOLVER.OPTIMIZER", "AdamW"), resume=True)


@pytest.mark.parametrize("earlier", [None, ["1 x Some GPU"]])  # None: of a version that did not write it
def test_a_run_knows_everything_that_it_was_made_on(tmp_path, earlier):
    trainer, task = make(tmp_path, config())
    here = trainer.hardware
    trainer._save(task)
    trainer.saver.wait()
    path = newest_checkpoint(tmp_path)
    content = load_checkpoint(path)
    assert content.pop("hardware") == here
    save_checkpoint(path, content if earlier is None else {**content, "hardware": earlier})
    for _ in range(2):  # a second start on the same machine adds nothing
        again, task = make(tmp_path, config(), resume=True)
        assert again.account[0] == [*(earlier or []), *here]
        again._save(task)
        again.saver.wait()


def test_an_evaluation_that_a_kill_cut_off_is_made_on_resume(tmp_path):
    class Killed(BaseException):
        pass

    def killed(_):
        raise Killed

    cfg = config("TEST.EVAL_PERIOD", "5")
    trainer, task = make(tmp_path, cfg)
    task.evaluate = killed
    with pytest.raises(Killed):
        trainer.train(task, [])
    trainer, task = make(tmp_path, cfg, resume=True)
    evaluated = []
    task.evaluate = lambda model: evaluated.append(trainer.iteration) or {}
    trainer.train(task, [])
    assert evaluated == [5, 10, 12]


@pytest.mark.parametrize("error", [UserError("a disk is full"), RuntimeError("a bug")])
def test_the_final_weights_are_written_whatever_fails_behind_the_last_step(tmp_path, error, caplog):
    def fails(model):
        raise error

    trainer, task = make(tmp_path, config())
    task.evaluate = fails
    with pytest.raises(type(error), match=str(error)) as raised, naming_the_weights(trainer, TOYS):
        trainer.train(task, [])
    said = str(raised.value) if isinstance(error, UserError) else caplog.text
    for words in ("All 12 steps were made", f"{tmp_path}/model_final.pth", "config.yaml --eval-only", "--resume"):
        assert words in said
    assert_equal(load_checkpoint(tmp_path / "model_final.pth")["model"], weights(trainer))

    (tmp_path / "model_final.pth").unlink()
    again, task = make(tmp_path, config(), resume=True)  # goes on with the evaluation
    assert "toy" in again.train(task, []) and again.iteration == 12
    assert_equal(load_checkpoint(tmp_path / "model_final.pth")["model"], weights(trainer))


def test_what_fails_before_the_last_step_is_said_as_it_is(tmp_path):
    def fails(model):
        raise UserError("an image is gone")

    trainer, task = make(tmp_path, config("TEST.EVAL_PERIOD", "5"))
    task.evaluate = fails
    with pytest.raises(UserError, match="^an image is gone$"), naming_the_weights(trainer, TOYS):
        trainer.train(task, [])
    assert not (tmp_path / "model_final.pth").exists()
