"""Rankings compared with what is known of the rows, and with each other: values, differences, 95% intervals.

What is known is a column of numbers, such as published scores; an order of the rows of each group, such as answers to
one request that people rated; or which rows are good. All intervals are those of a bootstrap, and differences are
paired: two rankings get the same draws. Works on arrays alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from nuggets_trainer.golden.arrays import FloatArray, Floats, Ints
from nuggets_trainer.golden.scores import golden_scores

NUM_CHOICES = 60  # choices of fewer anchors than there are, over which a value is averaged
ENDS = (0.025, 0.975)
CLOSEST = 1 - 1e-9  # the z transform of 1 is infinite


class Estimate(NamedTuple):
    """A number and the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ComparedRanking:
    """How good a ranking is.

    Attributes:
        ranking: name of the ranking.
        num_anchors: number of anchors that it is made from; None if it is given as it is.
        quality: rank correlation, share of pairs or AUC.
        difference: quality minus that of the first ranking; None for the first ranking itself.
    """

    ranking: str
    num_anchors: int | None
    quality: Estimate
    difference: Estimate | None


def correlation_by_anchors(
    zero_shot: FloatArray,
    one_shot: FloatArray,
    column: FloatArray,
    names: Sequence[str],
    numbers: Sequence[int],
    given: Mapping[str, FloatArray] | None = None,
    num_draws: int = 400,
    seed: int = 0,
) -> list[ComparedRanking]:
    """Measure the rank correlation of golden scores and gains with a column, by number of anchors.

    The correlation with fewer anchors than there are is a mean over random choices of them. Its interval covers what
    other rows and one other choice of as many anchors would give: each draw takes rows and anchors anew, with
    repetition. Repeated anchors tell less than different ones, so that the draws lie too low; the interval has the
    spread of the draws and lies about the value.

    Args:
        zero_shot: log-probs of the anchors, `(m,)`, nats per token.
        one_shot: log-probs behind each row, `(n, m)`.
        column: numbers to compare with, `(n,)`; rows where it is NaN are left out.
        names: attributes of `GoldenScores` to rank by.
        numbers: numbers of anchors, ascending, at most m.
        given: other rankings, `(n,)` each, that use no anchors. Rows where one is NaN are left out.
        num_draws: number of draws for the intervals.
        seed: seed of the choices and the draws.

    Returns:
        Each of `names` with each number, then the given ones. The first ranking, from which differences are taken, is
        the first name with the same number of anchors, and with the most anchors for given rankings.
    """
    given = given or {}
    usable = np.isfinite(column) & np.isfinite(one_shot).any(axis=1)
    for values in given.values():
        usable &= np.isfinite(values)
    one_shot, column = one_shot[usable], column[usable]
    others = np.array([values[usable] for values in given.values()]).reshape(len(given), len(column))
    n, m = one_shot.shape
    generator = np.random.default_rng(seed)
    drawn_rows = [generator.integers(0, n, n) for _ in range(num_draws)]
    found = []
    first_of_all = None
    for number in numbers:
        rank = partial(_values, names, zero_shot, one_shot)
        values = _mean_correlations(rank, column, m, number, generator)
        draws = np.empty((num_draws, len(names)))
        for draw, rows in enumerate(drawn_rows):
            anchors = generator.integers(0, m, number)
            draws[draw] = _correlations(rank(anchors)[:, rows], column[rows])
        first_of_all = (values[0], draws[:, 0])
        for place, name in enumerate(names):
            own = (values[place], draws[:, place])
            found.append(_compared(name, number, own, first_of_all if place else None, np.arctanh, np.tanh))
    values = _correlations(others, column)
    draws = np.array([_correlations(others[:, rows], column[rows]) for rows in drawn_rows])
    for place, name in enumerate(given):
        own = (values[place], draws[:, place])
        found.append(_compared(name, None, own, first_of_all, np.arctanh, np.tanh))
    return found


def share_of_pairs(
    rankings: Mapping[str, FloatArray],
    column: FloatArray,
    groups: Sequence[str],
    num_draws: int = 2000,
    seed: int = 0,
) -> list[ComparedRanking]:
    """Measure the share of pairs of rows of one group that a ranking has in the order of a column.

    0.5 is chance. A tie of the ranking counts half; a pair that is equal in the column does not count. All pairs count
    alike, and the intervals are those of other groups.

    Args:
        rankings: values `(n,)` by name, higher is better; rows where one is NaN are left out.
        column: known quality of the rows, `(n,)`; rows where it is NaN are left out.
        groups: group of each row, `(n,)`, such as its request.
        num_draws: number of draws of groups for the intervals.
        seed: seed of the draws.

    Raises:
        ValueError: if no group has two rows of different quality.
    """
    usable = np.isfinite(column)
    for values in rankings.values():
        usable &= np.isfinite(values)
    right, pairs = [], []
    group_of = np.asarray(groups)
    for group in np.unique(group_of[usable]):
        rows = np.flatnonzero(usable & (group_of == group))
        better, worse = np.nonzero(column[rows][:, None] > column[rows][None, :])
        if len(better):
            gaps = [values[rows[better]] - values[rows[worse]] for values in rankings.values()]
            right.append([float(((gap > 0) + 0.5 * (gap == 0)).sum()) for gap in gaps])
            pairs.append(len(better))
    if not pairs:
        raise ValueError("No group has two rows of different quality. Name columns of groups and quality that do.")
    counts, totals = np.array(right), np.array(pairs)
    drawn = np.random.default_rng(seed).multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=num_draws)
    values, draws = counts.sum(axis=0) / totals.sum(), (drawn @ counts) / (drawn @ totals)[:, None]
    return _all_compared(list(rankings), values, draws)


def auc_of_rankings(
    rankings: Mapping[str, FloatArray], is_good: npt.NDArray[np.bool_], num_draws: int = 500, seed: int = 0
) -> list[ComparedRanking]:
    """Measure how often a good row is above another one, with intervals over rows; ties count half.

    Args:
        rankings: values `(n,)` by name, higher is better; rows where one is NaN are left out.
        is_good: whether each row is good, `(n,)`.
        num_draws: number of draws of rows, good and other ones apart.
        seed: seed of the draws.
    """
    usable = np.ones(len(is_good), dtype=np.bool_)
    for values in rankings.values():
        usable &= np.isfinite(values)
    good, other = np.flatnonzero(usable & is_good), np.flatnonzero(usable & ~is_good)
    generator = np.random.default_rng(seed)
    values = np.array([_auc(of_row[good], of_row[other]) for of_row in rankings.values()])
    draws = np.empty((num_draws, len(rankings)))
    for draw in range(num_draws):
        some_good, some_other = generator.choice(good, len(good)), generator.choice(other, len(other))
        draws[draw] = [_auc(of_row[some_good], of_row[some_other]) for of_row in rankings.values()]
    return _all_compared(list(rankings), values, draws)


def _all_compared(names: list[str], values: FloatArray, draws: FloatArray) -> list[ComparedRanking]:
    """Compare all rankings with the first one; values are `(k,)`, draws `(draws, k)`."""
    found = []
    for place, name in enumerate(names):
        first = (values[0], draws[:, 0]) if place else None
        found.append(_compared(name, None, (values[place], draws[:, place]), first))
    return found


def _same(values: FloatArray) -> FloatArray:
    return values


def _compared(
    name: str,
    num_anchors: int | None,
    own: tuple[float, FloatArray],
    first: tuple[float, FloatArray] | None,
    forward: Callable[[FloatArray], FloatArray] = _same,
    back: Callable[[FloatArray], FloatArray] = _same,
) -> ComparedRanking:
    """Put the spread of the draws about the value; a transform keeps a correlation's interval within -1 and 1."""
    value, draws = own
    drawn = forward(np.clip(draws, -CLOSEST, CLOSEST))
    about = forward(np.clip(np.array([value]), -CLOSEST, CLOSEST))
    low, high = back(about + np.quantile(drawn, ENDS) - drawn.mean())
    quality = Estimate(float(value), float(low), float(high))
    if first is None:
        return ComparedRanking(name, num_anchors, quality, None)
    gap, gaps = value - first[0], draws - first[1]
    low, high = gap + np.quantile(gaps, ENDS) - gaps.mean()
    return ComparedRanking(name, num_anchors, quality, Estimate(float(gap), float(low), float(high)))


def _values(names: Sequence[str], zero_shot: FloatArray, one_shot: FloatArray, anchors: Ints) -> Floats:
    """Return the values of some anchors to rank by, `(names, n)`."""
    scores = golden_scores(zero_shot[anchors], one_shot[:, anchors])
    return np.array([getattr(scores, name) for name in names])


def _mean_correlations(
    rank: Callable[[Ints], Floats], column: FloatArray, m: int, number: int, generator: np.random.Generator
) -> Floats:
    """Return the correlations of rankings by `number` of m anchors, `(names,)`: means over choices of anchors."""
    num_choices = 1 if number == m else NUM_CHOICES
    choices = [generator.permutation(m)[:number] for _ in range(num_choices)]
    means: Floats = np.mean([_correlations(rank(anchors), column) for anchors in choices], axis=0)
    return means


def _correlations(rankings: Floats, column: FloatArray) -> Floats:
    """Return the rank correlation of each ranking `(k, n)` with a column, `(k,)`; 0 where one of them is constant."""
    ranks = stats.rankdata(np.vstack([rankings, column]), axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    sizes = np.sqrt(np.square(ranks).sum(axis=1))
    products = ranks[:-1] @ ranks[-1]
    found: Floats = np.divide(products, sizes[:-1] * sizes[-1], out=np.zeros(len(rankings)), where=sizes[:-1] > 0)
    return found


def _auc(good: FloatArray, other: FloatArray) -> float:
    """Return the share of pairs of a good and another row in which the good one is higher."""
    ranks = stats.rankdata(np.concatenate([good, other]))[: len(good)]
    return float((ranks.mean() - (len(good) + 1) / 2) / len(other))
