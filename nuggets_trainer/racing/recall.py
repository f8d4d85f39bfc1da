"""How much of a golden set is sure to be right while the values of some rows are only predicted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from nuggets_trainer.golden.arrays import Floats, Ints

STEPS = 60  # halvings of the interval that holds the cut


class Recall(NamedTuple):
    """What is expected of the golden set that the predicted values give.

    Attributes:
        cut: value that the golden set is expected to end at.
        member: probability of each row to belong to the golden set of all values, `(n,)`.
        missed: number of rows of that set that are expected to be missing from the predicted one.
        share: share of that set that the predicted one is expected to hold, in [0, 1].
    """

    cut: float
    member: Floats
    missed: float
    share: float


def expected_recall(value: Floats, error: Floats, copies: Ints, rule: tuple[str, float], num_kept: int) -> Recall:
    """Compare the golden set by predicted values with the one that the true values would give, by expectation.

    Each true value is taken as normal about its prediction. The cut is where as many rows are expected above it as the
    rule keeps. It is not the k-th best prediction, which would be too high or too low by the errors of the rows at it.

    Args:
        value: predicted value of each row, `(n,)`.
        error: standard error of each prediction, `(n,)`; 0 where the value is known.
        copies: number of pool rows that each row stands for, `(n,)`.
        rule: name and value of the selection rule.
        num_kept: number of rows that the rule keeps; it is not read for a threshold.

    Example:
        >>> import numpy as np
        >>> value, one = np.array([3.0, 2.0, 1.0, 0.0]), np.ones(4, dtype=np.int64)
        >>> expected_recall(value, np.zeros(4), one, ("top_k", 2), 2).share
        1.0
        >>> round(expected_recall(value, np.full(4, 0.5), one, ("top_k", 2), 2).share, 2)
        0.92
    """
    if rule[0] == "threshold":
        member = _probability_above(value, error, float(np.nextafter(rule[1], np.inf)))
        chosen = value > rule[1]
        missed = max(float((copies * member)[~chosen].sum()), float((copies * (1 - member))[chosen].sum()))
        # Where no row is expected above the threshold, one row counts as all of them.
        num_expected = max(1.0, float((copies * member).sum()))
        return Recall(rule[1], member, missed, 1 - min(1.0, missed / num_expected))
    cut = _cut(value, error, copies, num_kept)
    member = _probability_above(value, error, cut)
    best = np.argsort(-value, kind="stable")
    before = np.cumsum(copies[best]) - copies[best]
    chosen_copies = np.clip(num_kept - before, 0, copies[best])
    missed = max(0.0, num_kept - float((chosen_copies * member[best]).sum()))
    return Recall(cut, member, missed, 1 - missed / max(1, num_kept))


def _cut(value: Floats, error: Floats, copies: Ints, num_kept: int) -> float:
    """Return the highest value that at least `num_kept` rows are expected to reach; -inf if there are fewer rows."""
    if copies.sum() <= num_kept:
        return -np.inf
    widest = 9 * float(error.max(initial=0.0))  # nine errors away, a normal probability is 0
    low, high = float(value.min()) - widest, float(value.max()) + widest
    sure = 0  # rows above `high` by more than nine errors
    for _ in range(STEPS):
        middle = (low + high) / 2
        if sure + float((copies * _probability_above(value, error, middle)).sum()) >= num_kept:
            low = middle
        else:
            high = middle
        # Rows that are sure to be above or below whatever is left of the interval need not be looked at again.
        above, below = value - 9 * error > high, value + 9 * error < low
        sure += int(copies[above].sum())
        unsure = ~above & ~below
        value, error, copies = value[unsure], error[unsure], copies[unsure]
    return low


def _probability_above(value: Floats, error: Floats, cut: float) -> Floats:
    """Return the probability that each true value is at least the cut, `(n,)`."""
    known = error <= 0
    distance = (value - cut) / np.where(known, 1.0, error)
    probability: Floats = np.where(known, value >= cut, ndtr(distance))
    return probability
