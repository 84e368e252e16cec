"""Which parameter gets which learning rate and weight decay."""

import pytest
from torch import nn

from engine import compat  # noqa: F401
from engine.config.defaults import add_engine_defaults
from engine.errors import UserError
from engine.train.optim import build_optimizer

from detectron2.config import get_cfg


def solver(**values):
    cfg = add_engine_defaults(get_cfg())
    for key, value in {"BASE_LR": 0.1, "WEIGHT_DECAY": 0.01, "WEIGHT_DECAY_NORM": 0.002, **values}.items():
        cfg.SOLVER[key] = value
    return cfg.SOLVER


@pytest.fixture
def network():
    return nn.ModuleDict({"conv": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4), "fc": nn.Linear(4, 2)})


def settings(optimizer, parameter):
    (group,) = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group["lr"], group["weight_decay"]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_each_kind_of_parameter_has_its_own_settings(network, name):
    optimizer = build_optimizer(
        network, solver(OPTIMIZER=name, BIAS_LR_FACTOR=2.0, WEIGHT_DECAY_BIAS=0.0), {"fc": 10.0}
    )
    assert settings(optimizer, network["conv"].weight) == (0.1, 0.01)
    assert settings(optimizer, network["conv"].bias) == (0.2, 0.0)
    assert settings(optimizer, network["norm"].weight) == (0.1, 0.002)
    assert settings(optimizer, network["fc"].weight) == (1.0, 0.01)
    assert settings(optimizer, network["fc"].bias) == (2.0, 0.0)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 6


def test_what_is_frozen_is_left_out_and_nothing_left_is_an_error(network):
    network["conv"].requires_grad_(False)
    optimizer = build_optimizer(network, solver())
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 4
    network.requires_grad_(False)
    with pytest.raises(UserError, match="frozen"):
        build_optimizer(network, solver())
