"""Batches as a function of (seed, epoch)."""

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from engine.train.sampling import TrainingBatches, balancing_factors, derive_seed, repeat_factors, shard


def batches(size=23, batch_size=4, seed=1, end=24, **kwargs):
    return list(TrainingBatches(size, batch_size, seed, end=end, **kwargs))


@pytest.mark.parametrize("groups", [None, [i % 3 == 0 for i in range(23)]])
@pytest.mark.parametrize("start", [0, 1, 5, 6, 17])
def test_a_run_can_begin_at_any_position(start, groups):
    assert batches(start=start, groups=groups) == batches(groups=groups)[start:]


@pytest.mark.parametrize("groups", [None, [i % 3 == 0 for i in range(23)]])
def test_every_image_is_in_every_epoch(groups):
    steps = batches(groups=groups)
    assert len(steps) == 24
    for epoch in range(4):
        seen = Counter(index for batch in steps[6 * epoch : 6 * epoch + 6] for e, index in batch if e == epoch)
        assert set(seen) == set(range(23)) and sum(seen.values()) == 24  # one of them twice, to fill the last batch


def test_epochs_and_seeds_differ():
    steps = batches()
    assert [i for b in steps[:6] for _, i in b] != [i for b in steps[6:12] for _, i in b]
    assert batches(seed=2) != steps and batches() == steps


def test_processes_share_each_batch():
    whole = batches()
    parts = [batches(rank=rank, world_size=2) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize("groups", [None, [i % 3 == 0 for i in range(23)]])
def test_the_number_of_processes_may_change_at_any_step(groups):
    """1, 2, 4 and 1 again, within epochs and between them: the images of an uninterrupted run, in its order."""
    steps = []
    for start, end, world_size in ((0, 5, 1), (5, 12, 2), (12, 19, 4), (19, 24, 1)):
        of_each = [
            batches(start=start, end=end, rank=rank, world_size=world_size, groups=groups) for rank in range(world_size)
        ]
        steps += [sum(shares, []) for shares in zip(*of_each, strict=True)]
    assert steps == batches(groups=groups)


def test_batches_are_of_one_shape_as_far_as_possible():
    groups = [int(i < 10) for i in range(23)]
    mixed = [b for b in batches(end=6, groups=groups) if len({groups[i] for _, i in b}) > 1]
    assert len(mixed) <= 2  # 10 = 2 × 4 + 2, 13 = 3 × 4 + 1, and the rest are together


def test_fewer_images_than_a_batch():
    assert [len(b) for b in batches(size=3, batch_size=8, end=2)] == [8, 8]


def whole_epoch(size, batch_size, seed, epoch, groups):
    """An epoch in 64-bit integers, all of it filled up at once: the order by definition, whatever it costs."""
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(size)
    if groups is not None:
        full, rest = [], []
        for group in np.unique(groups):
            members = order[np.asarray(groups)[order] == group]
            whole = len(members) // batch_size * batch_size
            full += [members[first : first + batch_size] for first in range(0, whole, batch_size)]
            rest.append(members[whole:])
        order = np.concatenate([*(full[i] for i in random.permutation(len(full))), *rest])
    return np.resize(order, -(-size // batch_size) * batch_size).reshape(-1, batch_size).tolist()


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 23, 64, 255, 256, 257, 1000, 65535, 65536, 65537])
def test_the_order_is_that_of_its_definition(size, grouped):
    groups = np.random.default_rng(size).integers(3, size=size).tolist() if grouped else None
    for batch_size, world_size in [(1, 1), (4, 2), (6, 3), (16, 4)] if size < 60000 else [(96, 2)]:
        steps = 2 * -(-size // batch_size)
        expected = [batch for epoch in range(2) for batch in whole_epoch(size, batch_size, 5, epoch, groups)]
        share = batch_size // world_size
        for rank in range(world_size):
            ours = batches(size, batch_size, 5, steps, rank=rank, world_size=world_size, groups=groups)
            assert [[i for _, i in batch] for batch in ours] == [
                batch[rank * share : (rank + 1) * share] for batch in expected
            ]
            assert {type(i) for batch in ours for _, i in batch} == {int}


def test_an_epoch_takes_four_bytes_an_image_and_the_next_no_more():
    size = 300_000
    tracemalloc.start()
    try:
        list(TrainingBatches(size, size // 2, 1, start=1, end=3, rank=0, world_size=size // 2))
        assert tracemalloc.get_traced_memory()[1] < 4.5 * size
    finally:
        tracemalloc.stop()


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="multiple of 3"):
        TrainingBatches(10, 4, 1, end=1, world_size=3)
    with pytest.raises(ValueError, match="no images"):
        TrainingBatches(0, 4, 1, end=1)


@pytest.mark.parametrize("size", [0, 1, 7, 8])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_sees_every_image_exactly_once(size, world_size):
    assert [i for rank in range(world_size) for i in shard(size, rank, world_size)] == list(range(size))


def test_a_derived_seed_depends_on_every_part():
    positions = [(1, 0, 5), (2, 0, 5), (1, 1, 5), (1, 0, 6), (10, 5), (1, 0, "5.jpg"), (1, 5, 0)]
    seeds = [derive_seed(*p) for p in positions]
    assert len(set(seeds)) == len(seeds) and all(0 <= s < 2**32 for s in seeds)
    assert derive_seed(1, 0, 5) == derive_seed(1, 0, 5)


FACTORS = np.array([1, 2.3, 0.4, 0.4, 0.4, 1.7, 3, 1, 1, 1, 0.05])  # their sum is 12.25
GROUPS = [index % 3 == 0 for index in range(len(FACTORS))]


def weighted(groups=None, **kwargs):
    return batches(len(FACTORS), 4, 5, 24, factors=FACTORS, groups=groups, **kwargs)


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("start", [0, 1, 2, 5, 17])
def test_a_weighted_run_can_begin_at_any_position_and_be_shared_by_any_processes(start, groups):
    whole = weighted(groups)
    assert weighted(groups, start=start) == whole[start:]
    for world_size in (2, 4):
        parts = [weighted(groups, start=start, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert [sum(shares, []) for shares in zip(*parts, strict=True)] == whole[start:]


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_an_image_is_in_an_epoch_as_often_as_its_factor_rounded(groups):
    steps = weighted(groups)
    for epoch in range(24 // 4):  # 12 or 13 images are four batches
        seen = [position for batch in steps[4 * epoch : 4 * epoch + 4] for position in batch]
        assert {position[0] for position in seen} == {epoch}
        times = Counter(position[1] for position in dict.fromkeys(seen))  # but for those that fill up the last batch
        assert all(math.floor(one) <= times[index] <= math.ceil(one) for index, one in enumerate(FACTORS))
        assert sum(times.values()) in (12, 13)
        # The times of an image are told apart: the second is no copy of the first.
        for index, count in times.items():
            assert {tuple(position[2:]) for position in seen if position[1] == index} == {(), (1,), (2,)} - {
                (time,) for time in range(count, 3)
            }


def test_over_many_epochs_an_image_is_seen_as_often_as_its_factor_says():
    epochs = 3000
    sampler = TrainingBatches(len(FACTORS), 1, 7, end=1, factors=FACTORS)
    seen = sum(np.bincount(sampler._epoch(epoch), minlength=len(FACTORS)) for epoch in range(epochs))
    fraction = FACTORS % 1
    deviation = np.sqrt(fraction * (1 - fraction) / epochs)
    assert (abs(seen / epochs - FACTORS) <= 4 * deviation).all()


def test_factors_of_1_are_every_image_once():
    steps = batches(factors=np.ones(23))
    assert all(len(position) == 2 for batch in steps for position in batch)
    for epoch in range(4):
        assert {i for batch in steps[6 * epoch : 6 * epoch + 6] for _, i in batch} == set(range(23))


@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_classes_get_their_shares_of_every_epoch(strength):
    counts = np.array([90, 0, 25, 4, 1])  # a class without images is none
    labels = np.repeat(np.arange(5), counts)
    shares = np.where(counts > 0, np.maximum(counts, 1.0) ** (1 - strength), 0)
    expected = shares / shares.sum() * 120
    factors = balancing_factors(labels, strength)
    assert factors.sum() == pytest.approx(120) and np.bincount(labels, factors) == pytest.approx(expected[:5])
    steps = batches(120, 8, 3, 3 * 15, factors=factors)
    assert TrainingBatches(120, 8, 3, end=1, factors=factors).batches_per_epoch == 15
    for epoch in range(3):
        seen = [labels[position[1]] for batch in steps[15 * epoch : 15 * epoch + 15] for position in batch]
        assert (
            abs(np.bincount(seen, minlength=5) - expected) <= 2
        ).all()  # one by rounding, one to fill the last batch


def test_repeat_factors_are_those_of_the_paper():
    """Of ten images one holds class b and four hold c: f(b) = 0.1, f(c) = 0.4, t = 0.225: r(b) = 1.5, r(c) = 1."""
    classes = [{"a", "b"}, *[{"a", "c"}] * 4, *[{"a"}] * 4, ()]
    assert repeat_factors(classes, 0.225).tolist() == pytest.approx([1.5, *[1] * 9])
    assert repeat_factors(classes, 0.225, root=False).tolist() == pytest.approx([2.25, *[1] * 9])
    assert repeat_factors(classes, 0.9).tolist() == pytest.approx([3, *[1.5] * 4, *[1] * 5])  # a: f(a) = t
