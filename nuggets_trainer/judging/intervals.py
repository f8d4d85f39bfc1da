"""Means of scores with their standard errors and 95% intervals."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NAN = float("nan")


@dataclass(frozen=True)
class Mean:
    """Mean of independent values.

    Attributes:
        value: mean; NaN if there are no values.
        standard_error: standard error of the mean, with `n - 1` in the variance; NaN for fewer than two values.
        low: lower end of the 95% interval of Student's t.
        high: upper end of the interval.
        count: number of values, or of clusters.
    """

    value: float
    standard_error: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """Write `value [low, high]`, or the value alone if there is no interval."""
        if np.isnan(self.standard_error):
            return "" if np.isnan(self.value) else f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_of(values: Sequence[float]) -> Mean:
    """Return the mean of independent values, with its standard error and 95% interval.

    Example:
        >>> str(mean_of([1.0, 2.0, 3.0, 4.0]))
        '2.50 [0.45, 4.55]'
    """
    count = len(values)
    if count == 0:
        return Mean(NAN, NAN, NAN, NAN, 0)
    value = float(np.mean(values))
    if count == 1:
        return Mean(value, NAN, NAN, NAN, 1)
    return from_standard_error(value, float(stats.sem(values)), count)


def clustered_mean(items: Iterable[tuple[Hashable, float]]) -> Mean:
    """Return the mean of values that depend on each other within a cluster, such as the two turns of one question.

    The value is the mean of all values, as MT-Bench reports it. The error is that of a ratio of sums over clusters
    (linearized; Cochran, Sampling Techniques, section 6.4). With one value in each cluster this is `mean_of`.
    """
    sums: dict[Hashable, list[float]] = {}
    for cluster, value in items:
        sums.setdefault(cluster, []).append(value)
    count = len(sums)
    if count == 0:
        return mean_of([])
    totals = np.array(list(map(sum, sums.values())))
    sizes = np.array(list(map(len, sums.values())))
    value = float(totals.sum() / sizes.sum())
    if count == 1:  # one cluster tells nothing about the error
        return Mean(value, NAN, NAN, NAN, 1)
    residuals = (totals - value * sizes) / sizes.mean()
    return from_standard_error(value, float(np.sqrt((residuals**2).sum() / (count - 1) / count)), count)


def from_standard_error(value: float, standard_error: float, count: int) -> Mean:
    """Return a mean whose standard error is known, with the 95% interval of Student's t with `count - 1` degrees."""
    half_width = NAN
    if count > 1:
        half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * standard_error
    return Mean(float(value), float(standard_error), float(value - half_width), float(value + half_width), count)
