"""The loss: what mixing does to images and to the labels' shares."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from classification.config import load_config
from classification.loss import ClassificationLoss
from engine.errors import UserError
from engine.train.class_weights import class_weights

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


LABELS = np.array([0] * 6 + [2] * 3 + [3])  # of class 1 there is none
NAMES = ["a", "b", "c", "d", "e"]


def test_balanced_weights_are_inverse_numbers_of_images_of_mean_1():
    weights = class_weights(["balanced"], LABELS, NAMES)
    # 1/6, 1/3 and 1, over their mean 1/2, over the mean of an image's: (6 * 1/3 + 3 * 2/3 + 1 * 2) / 10.
    assert weights.tolist() == pytest.approx([1 / 3 / 0.6, 0, 2 / 3 / 0.6, 2 / 0.6, 0])
    assert class_weights([1 / 3, 9, 2 / 3, 2, 9], LABELS, NAMES)[[0, 2, 3]].tolist() == pytest.approx(
        weights[[0, 2, 3]].tolist()
    )
    assert class_weights([], LABELS, NAMES) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_over_an_epoch_the_weighted_loss_is_pytorchs(smoothing):
    """Which divides by the weights of what it is given; and the loss of a batch is the mean of its parts'."""
    given = torch.tensor([0.5, 3, 1, 4, 2])
    logits, labels = torch.randn(len(LABELS), K), torch.from_numpy(LABELS)
    cfg = load_config(None, ["SOLVER.LABEL_SMOOTHING", str(smoothing)])
    loss = ClassificationLoss(cfg, class_weights(given.tolist(), LABELS, NAMES))
    images = torch.zeros(len(LABELS), 3, 2, 2)

    def of(part):
        return loss(lambda x: logits[part], images[part], labels[part])["loss_cls"]

    whole = of(slice(None))
    assert torch.allclose(whole, F.cross_entropy(logits, labels, given, label_smoothing=smoothing))
    assert torch.allclose(whole, (of(slice(0, 5)) + of(slice(5, 10))) / 2)


def test_weights_count_in_a_mixed_batch_for_both_images(images):
    logits, labels = torch.randn(N, K), torch.randint(0, K, (N,))
    weights = torch.rand(K)
    loss = ClassificationLoss(load_config(None, ["INPUT.MIXUP", "1.0"]), weights)
    torch.manual_seed(3)
    _, partners, share = loss.mix(images)
    torch.manual_seed(3)
    value = loss(lambda x: logits, images, labels)["loss_cls"]
    targets = share * F.one_hot(labels, K) + (1 - share) * F.one_hot(labels[partners], K)
    assert torch.allclose(value, -(weights * targets * logits.log_softmax(1)).sum(1).mean())


def test_an_epoch_of_balanced_classes_has_their_average():
    """With factors by which every class is seen alike, an image counts its weight over the mean of the classes'."""
    factors = np.array([10 / 18] * 6 + [10 / 9] * 3 + [10 / 3])
    weights = class_weights([1, 5, 2, 3, 5], LABELS, NAMES, factors)
    assert weights.tolist() == pytest.approx([0.5, 2.5, 1, 1.5, 2.5])


def test_weights_that_fit_no_classes_are_refused():
    with pytest.raises(UserError, match="has 2 numbers, and there are 5 classes, in this order: a, b, c, d, e"):
        class_weights([1, 2], LABELS, NAMES)
    with pytest.raises(UserError, match="0 for every class of the training set"):
        class_weights([0, 1, 0, 0, 1], LABELS, NAMES)
