"""The loss: what mixing does to images and to the labels' shares."""

import pytest
import torch
from torch.nn import functional as F

from classification.config import load_config
from classification.loss import ClassificationLoss

N, K = 6, 5


@pytest.fixture
def images():
    """Image i is filled with the number i."""
    return torch.arange(N).float().view(N, 1, 1, 1).expand(N, 3, 16, 12).contiguous()


def loss_with(*overrides):
    return ClassificationLoss(load_config(None, overrides))


def test_without_mixing_it_is_the_smoothed_cross_entropy(images):
    logits, labels = torch.randn(N, K), torch.randint(0, K, (N,))
    loss = loss_with("SOLVER.LABEL_SMOOTHING", "0.1")(lambda x: logits, images, labels)["loss_cls"]
    targets = F.one_hot(labels, K) * 0.9 + 0.1 / K
    assert torch.allclose(loss, -(targets * logits.log_softmax(1)).sum(1).mean())


@pytest.mark.parametrize("kind", ["MIXUP", "CUTMIX"])
def test_an_images_share_is_what_is_left_of_it(kind, images):
    loss = loss_with(f"INPUT.{kind}", "1.0")
    shares = []
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, partners, share = loss.mix(images)
        assert sorted(partners.tolist()) == list(range(N))
        # The mean of a mixed image is what the shares say, since each image is one number.
        expected = share * images + (1 - share) * images[partners]
        assert torch.allclose(mixed.mean((1, 2, 3)), expected.mean((1, 2, 3)), atol=1e-5)
        if kind == "CUTMIX":  # every pixel is of one of the two
            assert bool(((mixed == images) | (mixed == images[partners])).all())
        shares.append(share)
    assert max(shares) - min(shares) > 0.5 and 0 <= min(shares) <= max(shares) <= 1
    assert bool((images == torch.arange(N).float().view(N, 1, 1, 1)).all()), "the batch itself was changed"


def test_a_mixed_batchs_loss_is_that_of_soft_targets(images):
    logits, labels = torch.randn(N, K), torch.randint(0, K, (N,))
    loss = loss_with("INPUT.MIXUP", "1.0", "SOLVER.LABEL_SMOOTHING", "0.1")
    torch.manual_seed(3)
    _, partners, share = loss.mix(images)
    torch.manual_seed(3)
    value = loss(lambda x: logits, images, labels)["loss_cls"]
    targets = share * F.one_hot(labels, K) + (1 - share) * F.one_hot(labels[partners], K)
    assert torch.allclose(value, F.cross_entropy(logits, targets, label_smoothing=0.1))


def test_the_probability_of_mixing(images):
    loss = loss_with("INPUT.CUTMIX", "1.0", "INPUT.MIX_PROBABILITY", "0.25")
    torch.manual_seed(0)
    mixed = sum(loss.mix(images)[1] is not None for _ in range(400))
    assert 70 <= mixed <= 130  # 100 expected, deviation 9
