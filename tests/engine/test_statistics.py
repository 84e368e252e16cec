"""The tests and errors against values by hand, brute force and published tables."""

import itertools
import math
import random

import pytest

from engine import statistics as st


def test_deviation_is_over_n_less_one_and_none_for_one_value():
    assert st.deviation([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert st.deviation([3.0]) is None


def test_binomial_error_of_a_fair_coin():
    assert st.binomial_error(50, 10_000) == pytest.approx(0.5) and st.binomial_error(0, 10) == 0


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 3), (1, 9), (9, 1), (4, 7), (0, 11)])
def test_mcnemar_counts_the_outcomes_that_are_as_uneven(first, second):
    total = first + second
    uneven = abs(first - second)
    outcomes = itertools.product((0, 1), repeat=total)
    as_uneven = sum(abs(total - 2 * sum(outcome)) >= uneven for outcome in outcomes)
    assert st.mcnemar(first, second) == pytest.approx(as_uneven / 2**total)


def test_mcnemar_of_thousands_is_exact_and_symmetric():
    assert st.mcnemar(5000, 5000) == 1.0 and st.mcnemar(0, 10_000) == 0.0
    assert st.mcnemar(400, 520) == st.mcnemar(520, 400) == pytest.approx(8.549170923883778e-05, rel=1e-9)
    # by the normal approximation with the correction for continuity
    z = (abs(400 - 520) - 1) / math.sqrt(920)
    assert st.mcnemar(400, 520) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.05)


def test_votes_of_one_seed_are_the_discordant_images():
    first, second = [True, True, False, False, True], [True, False, True, False, False]
    assert st.image_votes([first], [second]) == (2, 1)


def test_each_image_votes_once_however_many_seeds_saw_it():
    first = [[True, True, False, True]] * 3
    second = [[True, False, True, False], [True, False, True, True], [False, True, False, True]]
    # image 0: one seed more for the first; 1: two; 2: two for the second; 3: one for the first
    assert st.image_votes(first, second) == (3, 1)
    assert st.image_votes(first * 2, second * 2) == (3, 1)  # the same again is no more evidence


def test_holm_by_hand():
    assert st.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert st.holm([0.5, 0.9]) == [1.0, 1.0] and st.holm([]) == []


def test_holm_keeps_false_alarms_of_a_family_below_the_level():
    drawn = random.Random(0)
    trials = 4000
    alarms = sum(min(st.holm([drawn.random() for _ in range(10)])) < 0.05 for _ in range(trials))
    assert alarms / trials < 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(
    ("t", "freedom", "p"),  # the usual tables
    [(12.706, 1, 0.05), (4.303, 2, 0.05), (3.182, 3, 0.05), (2.571, 5, 0.05), (3.355, 8, 0.01), (2.042, 30, 0.05)],
)
def test_student_by_the_tables(t, freedom, p):
    assert st.student_t(t, freedom) == pytest.approx(p, rel=2e-3) == st.student_t(-t, freedom)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12])
def test_student_is_the_integral_of_its_density(freedom):
    def density(x):
        factor = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
        return factor * (1 + x * x / freedom) ** (-(freedom + 1) / 2)

    t, steps = 1.7, 20_000
    inside = sum(density((k + 0.5) * t / steps) for k in range(steps)) * t / steps * 2
    assert st.student_t(t, freedom) == pytest.approx(1 - inside, abs=1e-6)


def test_scatter_is_pooled_over_rows_that_have_two_seeds():
    assert st.pooled_deviation([[1.0], [2.0]]) is None
    assert st.pooled_deviation([[1.0, 3.0], [10.0], [5.0, 5.0, 8.0]]) == pytest.approx((math.sqrt(8 / 3), 3))


def test_a_difference_is_held_against_the_scatter_of_seeds():
    pooled = st.pooled_deviation([[10.0, 12.0, 14.0], [11.0]])
    # scatter 2 with two degrees of freedom, the error of 3 seeds against 1: 2 sqrt(4 / 3); t = 1 / 2.309
    assert st.seed_test([10.0, 12.0, 14.0], [11.0], pooled) == pytest.approx(st.student_t(0.4330127, 2))
    assert st.seed_test([1.0], [2.0], None) is None
    assert st.seed_test([1.0], [1.0], (0.0, 2)) == 1.0 and st.seed_test([1.0], [2.0], (0.0, 2)) == 0.0


def test_two_that_scatter_each_in_its_own_way_are_told_apart_by_their_own_scatter():
    # Variances 1 / 3 and 100 / 3 of the means: t = 30 / sqrt(101 / 3), (101 / 3)^2 / ((1 / 9 + 10000 / 9) / 2) = 2.04.
    first, second = [9.0, 10.0, 11.0], [30.0, 40.0, 50.0]
    expected = st.student_t(30 / math.sqrt(101 / 3), 2)
    assert st.seed_test(first, second, None) == pytest.approx(expected) == st.welch(second, first)
    # Alike in scatter and number it is Student's own, with 2 (n - 1) degrees of freedom.
    second = [value + 2 for value in first]
    assert st.welch(first, second) == pytest.approx(st.seed_test(first, second, st.pooled_deviation([first, second])))
    assert st.welch([1.0, 1.0], [1.0, 1.0]) == 1.0 and st.welch([1.0, 1.0], [2.0, 2.0]) == 0.0
