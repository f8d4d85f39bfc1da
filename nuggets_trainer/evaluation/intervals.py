"""Means of scores with their uncertainty (numpy, scipy). Knows no benchmark and no judge."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NAN = float("nan")


@dataclass(frozen=True)
class Mean:
    """A mean of independent values.

    Attributes:
        value: the mean; NaN without a value.
        standard_error: of the mean, with `n - 1` in the variance; NaN below two values.
        low: lower end of the 95% interval of Student's t.
        high: upper end.
        count: number of values, or of clusters.
    """

    value: float
    standard_error: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """Give `value [low, high]`, or the value alone where there is no interval."""
        if np.isnan(self.standard_error):
            return "" if np.isnan(self.value) else f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_of(values: Sequence[float]) -> Mean:
    """Mean of independent values, with its standard error and 95% interval.

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
    return from_standard_error(value, float(np.std(values, ddof=1)) / np.sqrt(count), count)


def clustered_mean(items: Iterable[tuple[Hashable, float]]) -> Mean:
    """Mean of values that are independent between clusters alone, such as the two turns of one question.

    The value is the mean of all values (as MT-Bench reports it); the error is that of a ratio, sum over sum, between
    clusters (linearized; Cochran, Sampling Techniques, section 6.4). With one value in each cluster it is `mean_of`.
    """
    sums: dict[Hashable, list[float]] = {}
    for cluster, value in items:
        sums.setdefault(cluster, []).append(value)
    count = len(sums)
    if count < 2:
        return mean_of([value for values in sums.values() for value in values][:1] if count else [])
    totals = np.array([sum(values) for values in sums.values()])
    sizes = np.array([len(values) for values in sums.values()])
    value = float(totals.sum() / sizes.sum())
    residuals = (totals - value * sizes) / sizes.mean()
    return from_standard_error(value, float(np.sqrt((residuals**2).sum() / (count - 1) / count)), count)


def from_standard_error(value: float, standard_error: float, count: int) -> Mean:
    """Mean whose standard error is known, with the 95% interval of Student's t with `count - 1` degrees."""
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * standard_error if count > 1 else NAN
    return Mean(float(value), float(standard_error), float(value - reach), float(value + reach), count)
