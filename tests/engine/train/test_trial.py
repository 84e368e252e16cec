"""A batch that a layer has no result for is refused before the training, by shapes alone."""

import pytest
import torch
from torch import nn

from classification.config import get_cfg
from engine.errors import UserError
from engine.train import trial
from engine.train.trial import check_test_shapes, check_training_shapes
from se_backbones import create_backbone

NETWORKS = ["resnet18", "se_mobilenet_v1", "se_shufflenet_v1_g3", "se_bn_inception", "se_resnet20_cifar"]


def config(images, accumulate=1):
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE = images, accumulate
    return cfg


def raises_in_training(network, images, side):
    """What PyTorch itself says."""
    try:
        network.train()(torch.zeros(images, 3, side, side))
    except ValueError as error:
        assert "more than 1 value per channel" in str(error)
        return True
    return False


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("images", "side"), [(1, 32), (2, 32), (1, 64)])
def test_it_is_refused_where_pytorch_would_raise(name, images, side):
    network = create_backbone(name, num_classes=4).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    refused = False
    try:
        check_training_shapes(network, config(images), [64, side], "INPUT.TRAIN_SIZE")
    except UserError as error:
        refused = True
        for word in ("SOLVER.IMS_PER_BATCH 1", "SOLVER.ACCUMULATE", f"INPUT.TRAIN_SIZE {side}"):
            assert word in str(error)
    assert network.training and all(value.equal(before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert refused == raises_in_training(network, images, side)


@pytest.mark.parametrize("norm", ["GN", "FrozenBN"])
def test_a_normalisation_without_batch_statistics_takes_one_image(norm):
    check_training_shapes(create_backbone("resnet18", norm=norm), config(1), [32], "INPUT.TRAIN_SIZE")


def test_fixed_stages_count_no_more():
    check_training_shapes(create_backbone("resnet18", freeze_at=5), config(1), [32], "INPUT.TRAIN_SIZE")


@pytest.mark.parametrize(
    ("images", "accumulate", "processes", "refused"),
    [(4, 4, 1, True), (4, 2, 1, False), (2, 1, 2, True), (4, 1, 2, False), (8, 4, 2, True)],
)
def test_what_one_process_computes_at_once_counts(monkeypatch, images, accumulate, processes, refused):
    monkeypatch.setattr(trial.comm, "get_world_size", lambda: processes)
    try:
        check_training_shapes(create_backbone("resnet18"), config(images, accumulate), [32], "INPUT.TRAIN_SIZE")
        assert not refused
    except UserError:
        assert refused
    # SyncBN has the values of all processes.
    synced = create_backbone("resnet18", norm="SyncBN")
    if processes > 1:
        check_training_shapes(synced, config(images, accumulate), [32], "INPUT.TRAIN_SIZE")


def test_images_too_small_for_a_pooling_are_said():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(8))
    with pytest.raises(UserError, match=r"INPUT\.TEST_SIZE 8 is too small"):
        check_test_shapes(network, 8, "INPUT.TEST_SIZE")
    with pytest.raises(UserError, match=r"INPUT\.TRAIN_SIZE 8 is too small"):
        check_training_shapes(network, config(2), [8, 32], "INPUT.TRAIN_SIZE")
