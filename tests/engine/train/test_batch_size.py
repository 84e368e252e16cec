"""A batch that fills a GPU: the largest that did not run out of memory, and a learning rate and lengths that fit it.

The GPU is a stand-in that runs out of memory above some number of images.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from engine import compat  # noqa: F401  (before detectron2)
from engine.config.defaults import add_engine_defaults
from engine.config.dialect import load_config
from engine.errors import UserError
from engine.train.batch_size import largest_batch, training_step, with_batch_size
from tests.engine.train.test_trainer import DATA, Network, config

from detectron2.config import get_cfg

GPU = torch.device("cuda", 0)


def holding(capacity, tried=None):
    """A step that a GPU can hold for so many images."""

    def step(images):
        if tried is not None:
            tried.append(images)
        if images > capacity:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return step


@pytest.fixture
def gpu(monkeypatch):
    shares = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: shares.append(share))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Stand-in")
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    return shares


@pytest.mark.parametrize(("capacity", "most", "fits"), [(1, 99, 1), (7, 99, 4), (8, 99, 8), (99, 8, 8), (99, 11, 8)])
def test_sizes_are_doubled_until_one_does_not_fit(capacity, most, fits):
    tried = []
    assert largest_batch(lambda: holding(capacity, tried), most) == fits
    assert tried == [2**power for power in range(len(tried))] and tried[-1] == min(2 * fits, max(tried))


def test_not_even_one_image_is_an_error_and_so_is_any_other():
    with pytest.raises(UserError, match="on one image does not fit.*RECOMPUTE"):
        largest_batch(lambda: holding(0), 9)

    def fails():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        largest_batch(lambda: lambda images: fails(), 9)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_rate_and_the_lengths_follow_the_batch(gpu, parts, caplog):
    caplog.set_level("INFO", logger="engine.train")
    settings = ["SOLVER.BASE_LR", "0.02", "SOLVER.MAX_ITER", "600", "SOLVER.STEPS", "(300, 500)", "TEST.EVAL_PERIOD"]
    cfg = config(*settings, "100", "SOLVER.IMS_PER_BATCH", "auto", "SOLVER.ACCUMULATE", str(parts))
    found = with_batch_size(cfg, GPU, 1000, None, lambda trial: holding(13))
    factor = 8 * parts / 4  # the toys' config is for batches of 4
    solver = found.SOLVER
    assert solver.IMS_PER_BATCH == 8 * parts and solver.BASE_LR == pytest.approx(0.02 * factor)
    assert (solver.MAX_ITER, solver.STEPS) == (round(600 / factor), (round(300 / factor), round(500 / factor)))
    assert (solver.WARMUP_ITERS, found.TEST.EVAL_PERIOD) == (max(round(3 / factor), 1), round(100 / factor))
    assert gpu == [0.9, 1.0]
    assert f"auto: {8 * parts} images" in caplog.text and "0.02, of a batch of 4, becomes" in caplog.text
    assert with_batch_size(found, GPU, 1000, None, pytest.fail) is found  # as a run is gone on with from its config


def test_a_resumed_run_keeps_its_batch_and_tries_nothing(gpu):
    words = ["SOLVER.BASE_LR", "0.02", "SOLVER.STEPS", "(6,)", "SOLVER.IMS_PER_BATCH"]
    then = with_batch_size(config(*words, "auto"), GPU, 1000, None, lambda trial: holding(13))
    for device in (GPU, torch.device("cpu")):
        assert with_batch_size(config(*words, "auto"), device, 1000, then, pytest.fail) == then


def test_a_batch_is_no_larger_than_the_set(gpu):
    cfg = config("SOLVER.IMS_PER_BATCH", "auto")
    assert with_batch_size(cfg, GPU, 20, None, lambda trial: holding(99)).SOLVER.IMS_PER_BATCH == 16


def test_on_a_cpu_it_asks_for_a_number():
    cfg = config("SOLVER.IMS_PER_BATCH", "auto")
    with pytest.raises(UserError, match="this run is on a CPU: give a number, such as SOLVER.IMS_PER_BATCH 4"):
        with_batch_size(cfg, torch.device("cpu"), 20, None, pytest.fail)


def test_auto_knows_what_it_stands_in_place_of(tmp_path):
    """In a file, over a base; on the command line, over a file; and a number over both."""

    def read(base, file, *words):
        (tmp_path / "base.yaml").write_text(f"SOLVER: {{{base}}}")
        (tmp_path / "mine.yaml").write_text(f"_BASE_: base.yaml\nSOLVER: {{{file}}}")
        defaults = add_engine_defaults(get_cfg())
        return load_config(defaults, tmp_path / "mine.yaml", words).SOLVER.IMS_PER_BATCH

    auto = ("SOLVER.IMS_PER_BATCH", "auto")
    assert read("IMS_PER_BATCH: 64", "BASE_LR: 1.0", *auto) == "auto 64"
    assert read("IMS_PER_BATCH: 64", "IMS_PER_BATCH: auto") == "auto 64"
    assert read("IMS_PER_BATCH: 64", "IMS_PER_BATCH: auto", *auto) == "auto 64"
    assert read("IMS_PER_BATCH: auto", "IMS_PER_BATCH: auto") == "auto 16"  # Detectron2's default
    assert read("IMS_PER_BATCH: auto 8", "IMS_PER_BATCH: auto") == "auto 8"
    assert read("IMS_PER_BATCH: 64", "IMS_PER_BATCH: 32", "SOLVER.IMS_PER_BATCH", "auto 8") == "auto 8"
    assert read("IMS_PER_BATCH: auto", "IMS_PER_BATCH: 32") == 32
    assert read("IMS_PER_BATCH: auto", "BASE_LR: 1.0", "SOLVER.IMS_PER_BATCH", "5") == 5
    for wrong in ("auto 0", "automatic", "1.5"):
        with pytest.raises(UserError, match="SOLVER.IMS_PER_BATCH wants an integer"):
            read("IMS_PER_BATCH: auto", f"IMS_PER_BATCH: {wrong}")
    with pytest.raises(UserError, match="SOLVER.MAX_ITER wants an integer"):
        read("MAX_ITER: 5", "MAX_ITER: auto")


@pytest.mark.parametrize("ema", ["False", "True"])
def test_a_step_is_that_of_a_training(ema):
    """With what it keeps: gradients, the optimizer's state, averaged weights."""
    cfg = config("SOLVER.OPTIMIZER", "AdamW", "SOLVER.EMA.ENABLED", ema)
    model = Network().eval()
    model.net[1] = nn.SyncBatchNorm(8)
    before = model.net[0].weight.clone()
    step = training_step(model, cfg, lambda model, batch: model(batch), lambda count: DATA[:count])
    step(2)
    step(7)
    assert model.training and not torch.equal(model.net[0].weight, before)
    assert not isinstance(model.net[1], nn.SyncBatchNorm) and model.net[1].num_batches_tracked == 2
