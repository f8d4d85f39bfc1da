"""Covariances between anchors: estimated from few rows, and what some anchors tell of the mean over all.

The covariance is that of the rows, drawn towards a plain law in which all anchors are alike
(`z[i, j] = quality[i] + noise[i, j]`), by as much as the sampling error of the covariances asks for (Schaefer and
Strimmer, 2005). If that law is right, nearly all of it is taken. On real gains a part is: four well chosen anchors
then tell as much as 8 to 15 in a random order under the plain law.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import linalg

from nuggets_trainer.golden.arrays import Bools, Floats, Ints

FEWEST_ROWS = 8  # a covariance of fewer rows says nothing


def shrunk_covariance(gains: Floats) -> tuple[Floats, float]:
    """Estimate the covariance between anchors, drawn towards that of the plain law.

    In the plain law all anchors have one variance and all pairs of anchors one covariance. Its share is
    `sum of var(s[j, k]) / sum of (s[j, k] - t[j, k])**2`, for covariances s of the rows and t of the law (Schaefer and
    Strimmer, 2005), at most 1.

    Args:
        gains: standardised gains of p rows, `(p, m)`; NaN for pairs that are not scored.

    Returns:
        The covariance, `(m, m)`, and the share of the plain law, in [0, 1].
    """
    gains = filled(gains)
    p, m = gains.shape
    centred = gains - gains.mean(axis=0)
    products = centred.T @ centred
    sample = products / max(1, p - 1)
    variance = float(np.trace(sample)) / m
    common = 0.0
    if m > 1:
        common = max(0.0, (float(sample.sum()) - m * variance) / (m * (m - 1)))
    plain = np.full((m, m), common)
    np.fill_diagonal(plain, variance if variance > 0 else 1.0)
    distance = float(np.square(sample - plain).sum())
    if p < FEWEST_ROWS or distance == 0:
        return plain, 1.0
    squares = np.square(centred)
    scatter = float((squares.T @ squares - np.square(products) / p).sum())
    share = min(1.0, scatter * p / (p - 1) ** 3 / distance)
    return share * plain + (1 - share) * sample, share


def informative_order(covariance: Floats, weight: Floats, tokens: Ints) -> Ints:
    """Order anchors so that each tells most about the weighted sum of all, per token, given those before it.

    Args:
        covariance: covariance of the anchors, `(m, m)`.
        weight: weight of each anchor in the sum, `(m,)`.
        tokens: cost of each anchor, `(m,)`.

    Returns:
        Places of the anchors, `(m,)`.
    """
    m = len(covariance)
    order = np.empty(m, dtype=np.int64)
    rows = np.zeros((m, m))  # Cholesky factor in the new order
    left = np.diag(covariance).copy()  # variances given the anchors so far
    shared = covariance @ weight  # covariances with the sum given the anchors so far
    open_anchors = np.ones(m, dtype=np.bool_)
    smallest = 1e-9 * max(float(left.max(initial=0.0)), 1e-300)
    for place in range(m):
        told = np.where(left > smallest, np.square(shared) / np.maximum(left, smallest), 0.0) / tokens
        # Rounded, so that equal anchors come in their own order on every machine.
        best = int(np.argmax(np.where(open_anchors, np.round(told / max(told.max(), 1e-300), 9), -1.0)))
        order[place], open_anchors[best] = best, False
        if left[best] > smallest:
            row = (covariance[best] - rows[:place].T @ rows[:place, best]) / math.sqrt(left[best])
            rows[place] = row
            shared -= row * (shared[best] / math.sqrt(left[best]))
            left -= np.square(row)
    return order


def regress_mean(covariance: Floats, weight: Floats, scored: Bools, own: Bools) -> tuple[Floats, float]:
    """Regress the mean of `weight * gain` over `own` anchors on the gains of the scored ones.

    Returns:
        Coefficients, `(m,)`, 0 where an anchor is not scored, and the standard error of the prediction.
    """
    target = np.where(own, weight, 0.0) / own.sum()
    if scored.sum() == own.sum():
        return target, 0.0
    with_target = covariance @ target
    coefficients = np.zeros(len(target))
    block = covariance[np.ix_(scored, scored)]
    if len(block):
        coefficients[scored] = linalg.solve(block + small_diagonal(block), with_target[scored], assume_a="pos")
    variance = float(target @ with_target - coefficients @ with_target)
    return coefficients, math.sqrt(max(variance, 0.0))


def small_diagonal(covariance: Floats) -> Floats:
    """Return a small diagonal that keeps a covariance of repeated anchors invertible."""
    jitter: Floats = np.eye(len(covariance)) * (1e-9 * max(float(np.diag(covariance).mean()), 1e-30))
    return jitter


def filled(gains: Floats) -> Floats:
    """Put the mean of a row in the places of its pairs that are not scored."""
    scored = ~np.isnan(gains)
    mean = np.where(scored, gains, 0.0).sum(axis=1) / np.maximum(scored.sum(axis=1), 1)
    return np.where(scored, gains, mean[:, None])
