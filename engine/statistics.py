"""What a difference between two runs is worth: errors of figures, and tests for pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.05  # below it a difference is called one


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample, over n - 1; None for one value."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def binomial_error(percent: float, images: int) -> float:
    """The standard error of a share in percent that was counted on so many images, in percent: how far it would stray
    with other images of the same kind, for one and the same network. sqrt(p (1 - p) / n)."""
    share = percent / 100
    return 100 * math.sqrt(max(share * (1 - share), 0.0) / images)


def mcnemar(first: int, second: int) -> float:
    """The exact McNemar test, two-sided: the probability of counts at least as uneven, where either is as likely.

    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947); in its exact form the binomial test with p = 1/2 of the discordant pairs. The two-sided
    value is twice the smaller tail, at most 1.

    Args:
        first, second: images that the one alone, and the other alone, has right.

    Returns:
        0..1; 1 where both are 0.
    """
    total, least = first + second, min(first, second)
    # Whole numbers, whose quotient is rounded once: 2 to the power of ten thousand images is no float.
    tail, term = 0, 1
    for k in range(least + 1):
        tail += term
        term = term * (total - k) // (k + 1)
    return min(2 * tail / 2**total, 1.0)


def image_votes(first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]]) -> tuple[int, int]:
    """How many images are for the first row, and how many for the second.

    The same images are seen with every seed, so that the seeds' tables of discordant images are not independent and
    may not be summed. Each image has one vote instead: it is for the row that has it right with more seeds, and
    abstains where they are as many. The test of the votes, ``mcnemar``, is the sign test, and with one seed
    McNemar's own. It speaks of these runs on other images, not of other runs.

    Args:
        first, second: for each seed, in the same order, whether each image was right.
    """
    scores = [0] * len(first[0])
    for ours, theirs in zip(first, second, strict=True):
        for position, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            scores[position] += int(a) - int(b)
    return sum(score > 0 for score in scores), sum(score < 0 for score in scores)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for their number, in the same order: the chance of any false alarm among all of them stays
    below what each corrected value is compared with.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(p_values[position] * (len(p_values) - rank), 1.0))
        corrected[position] = worst
    return corrected


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """The standard deviation within groups, taken to be one for all, and its degrees of freedom; None where no group
    has two values."""
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return None
    squares = math.fsum((value - mean(group)) ** 2 for group in several for value in group)
    return math.sqrt(squares / freedom), freedom


def student_t(t: float, freedom: int) -> float:
    """The two-sided p value of Student's t, P(|T| >= |t|), for a whole number of degrees of freedom.

    The finite sums of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if math.isinf(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1, freedom, 2) if odd else range(0, freedom, 2):
        total += term
        term *= cosine**2 * (k + 1) / (k + 2)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(max(1.0 - inside, 0.0), 1.0)


def seed_test(first: Sequence[float], second: Sequence[float], pooled: tuple[float, int] | None) -> float | None:
    """The two-sided p value of a difference of means, by how much runs scatter with their seeds; None where that is not
    known.

    Args:
        first, second: a figure of each seed.
        pooled: of all rows that scatter alike, as ``pooled_deviation`` gives it; None: the two scatter each in its own
            way, and are held against each other by ``welch``.
    """
    if pooled is None:
        return welch(first, second)
    scatter, freedom = pooled
    return _of_difference(first, second, scatter * math.sqrt(1 / len(first) + 1 / len(second)), freedom)


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Welch's test of a difference of means, two-sided; None where one of the two has one value alone.

    Welch, "The generalization of 'Student's' problem when several different population variances are involved",
    Biometrika 34 (1947). The degrees of freedom, which are no whole number, are rounded down: p is never too small by
    that.
    """
    if len(first) < 2 or len(second) < 2:
        return None
    parts = [(deviation(values) ** 2 / len(values), len(values) - 1) for values in (first, second)]
    square = sum(part for part, _ in parts)
    freedom = square**2 / sum(part**2 / free for part, free in parts) if square else 1
    return _of_difference(first, second, math.sqrt(square), int(freedom * (1 + 1e-9)))


def _of_difference(first: Sequence[float], second: Sequence[float], error: float, freedom: int) -> float:
    difference = abs(mean(first) - mean(second))
    if error == 0:
        return 0.0 if difference else 1.0
    return student_t(difference / error, freedom)
