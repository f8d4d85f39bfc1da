"""How far predicted values are off: by the number of anchors scored, and by the predicted value itself.

The normal law gives one error to all rows that are scored on the same anchors. Real gains differ from it in three
ways. A covariance of few rows fits these rows better than others, so errors are larger than expected. The best rows
are often closer together than the others, or all but equal: their errors are then far smaller, and they are off
together. And errors are skewed: of a model of 135M parameters, a sixth as many rows as the normal law says are better
than predicted by two errors. With normal errors, many rows on few anchors made the cut of the top 1% too high.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from nuggets_trainer.golden.arrays import Bools, Floats, Ints
from nuggets_trainer.racing.gain_covariance import filled, informative_order, regress_mean, shrunk_covariance

FOLDS = 8  # parts of the pilot that are predicted from the others
PART = 4  # a quarter of the pilot's rows tells what the errors near a predicted value are
FEWEST_NEAR = 8  # rows that this quarter has at least; a smaller pilot gives one error to all rows
# The errors near a value are taken as those of all rows, unless these rows show so surely that they differ.
# On the gains of two real models this changes tokens and recall by less than 0.01.
SURE = 0.9
MOST_SKEWNESS = 1.0  # that a pilot is believed; 1.5 saves 0.3 points more in the top 1% of a real pool
LEAST_FACTOR = 1e-3  # of an error, so that a prediction never counts as known


class Correction(NamedTuple):
    """What the pilot shows of the predictions from one number of anchors.

    Attributes:
        predicted: predicted values, relative to the mean of the pilot, ascending, `(w,)`.
        shift: what is to be added to a prediction there, in errors by the normal law, `(w,)`.
        factor: error there, in errors by the normal law, `(w,)`.
    """

    predicted: Floats
    shift: Floats
    factor: Floats

    def at(self, predicted: Floats) -> tuple[Floats, Floats]:
        """Return shift and factor at some predictions, `(r,)` each."""
        shift: Floats = np.interp(predicted, self.predicted, self.shift)
        factor: Floats = np.interp(predicted, self.predicted, self.factor)
        return shift, factor


def without_shift(factor: float) -> Correction:
    """Return a correction that is the same for all rows."""
    return Correction(np.zeros(1), np.zeros(1), np.full(1, factor))


def interpolate(corrections: Sequence[Correction], shares: Floats, share: float, predicted: Floats) -> Correction:
    """Return the correction of some predictions, each array `(r,)`.

    Args:
        corrections: corrections for some shares of the anchors.
        shares: these shares, ascending from 0 to 1.
        share: share of the anchors that the rows are scored on.
        predicted: predictions of the rows, `(r,)`.
    """
    after = int(np.clip(np.searchsorted(shares, share, side="right"), 1, len(shares) - 1))
    near = (share - shares[after - 1]) / (shares[after] - shares[after - 1])
    shift, factor = corrections[after - 1].at(predicted)
    next_shift, next_factor = corrections[after].at(predicted)
    return Correction(predicted, shift + near * (next_shift - shift), factor + near * (next_factor - factor))


def left_out_misses(gains: Floats, usable: Bools, weight: Floats, anchor_tokens: Ints, sizes: Sequence[int]) -> Floats:
    """Predict each part of the pilot from the others, and compare the misses with the errors that were expected.

    Args:
        gains: standardised gains of the pilot, `(p, m)`; NaN for pairs that are not scored.
        usable: anchors that may be scored, `(m,)`.
        weight: weight of each anchor's gain in the value, `(m,)`.
        anchor_tokens: forward tokens of each anchor, `(m,)`.
        sizes: numbers of anchors to predict from, `(s,)`.

    Returns:
        True minus predicted value of each row, in expected errors, `(p, s)`; 1 where no error was expected.
    """
    whole = filled(gains)
    misses = np.zeros((len(whole), len(sizes)))
    for fold in range(min(FOLDS, len(whole) // 2)):
        left_out = np.arange(len(whole)) % FOLDS == fold
        covariance, _ = shrunk_covariance(gains[~left_out])
        order = usable_order(covariance, usable, weight, anchor_tokens)
        others = whole[left_out] - whole[~left_out].mean(axis=0)
        value = (weight * others)[:, usable].mean(axis=1)
        for place, size in enumerate(sizes):
            coefficients, error = regress_mean(covariance, weight, first_of(order, size, len(usable)), usable)
            misses[left_out, place] = (value - others @ coefficients) / error if error > 0 else 1.0
    return misses


def inflation_of(misses: Floats) -> Floats:
    """Return the factor by which errors are larger than expected, `(s,)`, at least 1.

    Args:
        misses: result of `left_out_misses`, `(p, s)`.
    """
    squares = np.square(misses).sum(axis=0) / max(1, len(misses))
    inflation: Floats = np.sqrt(np.maximum(1, squares))
    return inflation


def skewness_of(misses: Floats) -> float:
    """Return the skewness of the misses, by their mean over the numbers of anchors.

    It is believed by as much as it stands out from its own standard error, `sqrt(6 / p)` (James and Stein), so that
    the chance of a small pilot hardly ever counts.

    Args:
        misses: result of `left_out_misses`, `(p, s)`.

    Example:
        >>> import numpy as np
        >>> normal = np.random.default_rng(0).standard_normal((64, 1))
        >>> skewness_of(normal), round(skewness_of(-np.exp(normal)), 2)
        (0.0, -1.0)
    """
    centred = misses - misses.mean(axis=0)
    spread = np.square(centred).mean(axis=0) ** 1.5
    varies = spread > 0
    if not varies.any():
        return 0.0
    skewness = float(((centred**3).mean(axis=0)[varies] / spread[varies]).mean())
    by_chance = 6 / len(misses)
    believed = skewness * max(0.0, 1 - by_chance / max(skewness**2, 1e-300))
    return float(np.clip(believed, -MOST_SKEWNESS, MOST_SKEWNESS))


def correct_by_value(predicted: Floats, value: Floats, error: float, inflation: float) -> Correction:
    """Find out where the predictions of the pilot's rows are off together, and where their errors differ.

    The model was learned from these rows, so they only tell how errors differ between values. How large errors are
    altogether is told by `inflation`.

    Args:
        predicted: predicted value of each row of the pilot, relative to the mean, `(p,)`.
        value: true value of each, `(p,)`.
        error: error by the normal law.
        inflation: factor by which errors are larger than that for rows that the model was not learned from.
    """
    num_near = max(len(value) // PART, FEWEST_NEAR)
    misses = value - predicted
    if len(value) < 2 * num_near or error <= 0 or not misses.any():
        return without_shift(inflation)
    all_squares = float(np.square(misses).mean())
    order = np.argsort(predicted, kind="stable")
    mean = _moving_mean(misses[order], num_near)
    squares = _moving_mean(np.square(misses[order]), num_near)
    variance = np.maximum(squares - np.square(mean), 0.0) * num_near / (num_near - 1)
    # A mean miss is believed by as much as it stands out from its own error (James and Stein).
    of_mean = variance / num_near
    shift = mean * np.maximum(0.0, 1 - of_mean / np.maximum(np.square(mean), 1e-300))
    relative = (variance + of_mean) / all_squares * (num_near - 1)
    low, high = relative / chi2.ppf(SURE, num_near - 1), relative / chi2.ppf(1 - SURE, num_near - 1)
    factor = inflation * np.sqrt(np.clip(1.0, low, high))
    return Correction(
        _moving_mean(predicted[order], num_near), shift / error, np.maximum(factor, LEAST_FACTOR * inflation)
    )


def usable_order(covariance: Floats, usable: Bools, weight: Floats, anchor_tokens: Ints) -> Ints:
    """Order the usable anchors by what they tell about the value per token, `(u,)`."""
    places = np.flatnonzero(usable)
    block = covariance[np.ix_(places, places)]
    order: Ints = places[informative_order(block, weight[places], anchor_tokens[places])]
    return order


def first_of(order: Ints, size: int, num_anchors: int) -> Bools:
    """Return which anchors are among the first ones of an order, `(num_anchors,)`."""
    first = np.zeros(num_anchors, dtype=np.bool_)
    first[order[:size]] = True
    return first


def doubling_sizes(num_anchors: int) -> list[int]:
    """Return 0, 1, 2, 4, ... below a number of anchors."""
    sizes = [0]
    while max(1, 2 * sizes[-1]) < num_anchors:
        sizes.append(max(1, 2 * sizes[-1]))
    return sizes


def _moving_mean(values: Floats, num_near: int) -> Floats:
    """Return the mean of each `num_near` values that follow each other, `(p - num_near + 1,)`."""
    windows = np.lib.stride_tricks.sliding_window_view(values, num_near)
    mean: Floats = windows.mean(axis=1)
    return mean
