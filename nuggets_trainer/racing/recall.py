"""How much of a golden set is sure to be right while the values of some rows are only predicted."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy.special import gammainc, gammaincc, ndtr

from nuggets_trainer.golden.arrays import Floats, Ints

STEPS = 60  # halvings of the interval that holds the cut
WIDEST = 9.0  # errors from a prediction beyond which no true value is expected
NUM_STEPS = 3601  # of the table of a skewed law: 200 in an error
LEAST_SKEWNESS = 0.01  # below it, the normal law is as good
FEWEST_BEST = 8  # rows whose errors tell how much anchors leave open
# Of the standard error that all anchors leave. On the gains of two real models a race of the top 10% takes 10 to 25%
# fewer tokens by it, and the golden score on unseen anchors is lower by 0.005 (docs/log/race.md).
INDIFFERENT = 0.25


class Recall(NamedTuple):
    """What is expected of the golden set that the predicted values give.

    Attributes:
        cut: value that the golden set is expected to end at.
        member: probability of each row to belong to the golden set of all values, `(n,)`; for rows of the predicted
            set, also to be below its last row by less than the difference that counts.
        missed: number of rows of the predicted set that are expected to be worse than its last row by more than the
            difference that counts.
        share: share of the predicted set that is expected to be as good as that row or nearly, in [0, 1].
    """

    cut: float
    member: Floats
    missed: float
    share: float


def indifference_of(value: Floats, error: Floats, rule: tuple[str, float], share_kept: float) -> float:
    """Return the difference of values below which nobody can tell which of two rows is better.

    It is a quarter of the standard error that all anchors leave to a row's value, by the median of the best rows:
    those that the rule keeps, and at least 8. With other anchors, two rows that differ by so much would change places
    in 45 of 100 draws.

    Args:
        value: value of some rows that are scored on all anchors, `(p,)`.
        error: its standard error, as if the anchors were drawn again, `(p,)`; NaN where it is not known.
        rule: name and value of the selection rule.
        share_kept: share of the rows that the rule keeps; it is not read for a threshold.

    Returns:
        A difference in the unit of the values; 0 if no error is known.

    Example:
        >>> import numpy as np
        >>> indifference_of(np.arange(10.0), np.full(10, 0.2), ("top_k", 1), 0.1)
        0.05
    """
    known = ~np.isnan(error)
    value, error = value[known], error[known]
    if not len(value):
        return 0.0
    if rule[0] == "threshold":
        share_kept = float((value > rule[1]).mean())
    best = np.argsort(-value, kind="stable")[: max(FEWEST_BEST, round(share_kept * len(value)))]
    return INDIFFERENT * float(np.median(error[best]))


def expected_recall(
    value: Floats,
    error: Floats,
    copies: Ints,
    rule: tuple[str, float],
    num_kept: int,
    indifference: float = 0.0,
    skewness: float = 0.0,
) -> Recall:
    """Compare the golden set by predicted values with the one that the true values would give, by expectation.

    Each true value is taken as normal about its prediction, or as a shifted gamma variable where errors are skewed:
    where the best rows of a pool lie closely together, few rows are much better than predicted. The cut is where as
    many rows are expected above it as the rule keeps. It is not the k-th best prediction, which would be too high or
    too low by the errors of the rows at it. A row of the predicted set that is below the cut by less than
    `indifference` is as good as a row of the true set.

    Args:
        value: predicted value of each row, `(n,)`.
        error: standard error of each prediction, `(n,)`; 0 where the value is known.
        copies: number of pool rows that each row stands for, `(n,)`.
        rule: name and value of the selection rule.
        num_kept: number of rows that the rule keeps; it is not read for a threshold.
        indifference: difference of values that does not count.
        skewness: skewness of the errors, true minus predicted; 0 is the normal law.

    Example:
        >>> import numpy as np
        >>> value, one = np.array([3.0, 2.0, 1.0, 0.0]), np.ones(4, dtype=np.int64)
        >>> expected_recall(value, np.zeros(4), one, ("top_k", 2), 2).share
        1.0
        >>> round(expected_recall(value, np.full(4, 0.5), one, ("top_k", 2), 2).share, 2)
        0.92
    """
    if rule[0] == "threshold":
        return _recall_of_threshold(value, error, copies, rule[1], indifference, skewness)
    cut = _cut(value, error, copies, num_kept, skewness)
    best = np.argsort(-value, kind="stable")
    before = np.cumsum(copies[best]) - copies[best]
    chosen_copies = np.zeros_like(copies)
    chosen_copies[best] = np.clip(num_kept - before, 0, copies[best])
    chosen = chosen_copies > 0
    member = _probability_above(value, error, np.where(chosen, cut - indifference, cut), skewness)
    missed = max(0.0, num_kept - float((chosen_copies * member)[best].sum()))
    return Recall(cut, member, missed, 1 - missed / max(1, num_kept))


def _recall_of_threshold(
    value: Floats, error: Floats, copies: Ints, threshold: float, indifference: float, skewness: float
) -> Recall:
    """Return the same for a threshold: rows above it may also be missing, and rows below it too many."""
    cut = float(np.nextafter(threshold, np.inf))
    chosen = value > threshold
    member = _probability_above(value, error, np.where(chosen, cut - indifference, cut + indifference), skewness)
    missed = max(float((copies * member)[~chosen].sum()), float((copies * (1 - member))[chosen].sum()))
    # Where no row is expected above the threshold, one row counts as all of them.
    num_expected = max(1.0, float((copies * _probability_above(value, error, cut, skewness)).sum()))
    return Recall(threshold, member, missed, 1 - min(1.0, missed / num_expected))


def _cut(value: Floats, error: Floats, copies: Ints, num_kept: int, skewness: float) -> float:
    """Return the highest value that at least `num_kept` rows are expected to reach; -inf if there are fewer rows."""
    if copies.sum() <= num_kept:
        return -np.inf
    widest = WIDEST * float(error.max(initial=0.0))
    low, high = float(value.min()) - widest, float(value.max()) + widest
    sure = 0  # rows above `high` by more than nine errors
    for _ in range(STEPS):
        middle = (low + high) / 2
        if sure + float((copies * _probability_above(value, error, middle, skewness)).sum()) >= num_kept:
            low = middle
        else:
            high = middle
        # Rows that are sure to be above or below whatever is left of the interval need not be looked at again.
        above, below = value - WIDEST * error > high, value + WIDEST * error < low
        sure += int(copies[above].sum())
        unsure = ~above & ~below
        value, error, copies = value[unsure], error[unsure], copies[unsure]
    return low


def _probability_above(value: Floats, error: Floats, cut: Floats | float, skewness: float) -> Floats:
    """Return the probability that each true value is at least the cut, one for all or `(n,)`."""
    known = error <= 0
    distance = (value - cut) / np.where(known, 1.0, error)
    is_normal = abs(skewness) < LEAST_SKEWNESS
    above = ndtr(distance) if is_normal else np.interp(distance, *_skewed_law(skewness))
    probability: Floats = np.where(known, value >= cut, above)
    return probability


@functools.lru_cache(maxsize=64)
def _skewed_law(skewness: float) -> tuple[Floats, Floats]:
    """Return distances of a prediction above the cut, in errors, and the probability that the true value is above it.

    The error is a gamma variable, shifted and scaled to mean 0 and deviation 1, turned round for a negative skewness
    (Pearson's type III). A table is a hundred times faster than the incomplete gamma function.
    """
    distance = np.linspace(-WIDEST, WIDEST, NUM_STEPS)
    shape = 4 / skewness**2
    if skewness > 0:
        return distance, gammaincc(shape, np.maximum(shape - distance * math.sqrt(shape), 0.0))
    return distance, gammainc(shape, np.maximum(shape + distance * math.sqrt(shape), 0.0))
