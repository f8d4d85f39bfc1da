"""How golden scores go with another column: the length, a loss, a column of the source. Works on arrays alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.metrics import roc_auc_score

from nuggets_trainer.golden.arrays import FloatArray, Floats
from nuggets_trainer.wording import counted

MOST_CATEGORIES = 20  # more different texts are no grouping
MEASURES = {"numeric": "rank correlation", "binary": "AUC", "categories": "eta squared"}


@dataclass(frozen=True)
class Association:
    """How golden scores go with one column.

    Attributes:
        column: name of the column.
        kind: `numeric` (Spearman's rank correlation), `binary` (AUC: how often a row with the larger value has the
            higher score, ties count half) or `categories` (eta squared: share of the variance between the values).
        value: measure that belongs to the kind.
        standard_error: standard error of the value: `(1 - r^2) / sqrt(n - 2)` for a rank correlation, Hanley and
            McNeil's for an AUC, None for categories.
        num_rows: number of rows with a score and a value.
        at_equal_length: the same measure without the effect of the completion's length: the partial rank correlation,
            or the AUC after a straight line through the ranks of the lengths is taken from the ranks of the score;
            None without lengths, and for categories.
        means: mean golden score by value, for a binary column or categories.
    """

    column: str
    kind: str
    value: float
    standard_error: float | None
    num_rows: int
    at_equal_length: float | None = None
    means: dict[str, float] | None = None

    def describe(self) -> str:
        """Write the association in one line."""
        line = f"{self.column}: {MEASURES[self.kind]} {self.value:+.2f}"
        if self.standard_error is not None:
            line += f" +- {self.standard_error:.2f}"
        line += f" ({counted(self.num_rows, 'row')})"
        if self.at_equal_length is not None:
            line += f", at equal length {self.at_equal_length:+.2f}"
        if self.means is not None:
            means = [f"{name} {mean:.2f}" for name, mean in self.means.items()]
            line += f"; mean golden score by value: {', '.join(means)}"
        return line


def associate(
    golden_score: FloatArray, column: str, values: npt.ArrayLike, lengths: npt.ArrayLike | None = None
) -> Association | None:
    """Measure how golden scores go with one column.

    Args:
        golden_score: golden scores, `(n,)`; NaN for rows without one.
        column: name of the column.
        values: numbers, truth values or texts, `(n,)`; None or NaN for rows without one.
        lengths: lengths of the completions, `(n,)`, whose effect is removed in `at_equal_length`.

    Returns:
        The association; None if the column says nothing: all values are equal, or texts are nearly all different.

    Raises:
        ValueError: if the values are lists.
    """
    values = _array(column, values)
    score = np.asarray(golden_score, dtype=np.float64)
    is_numeric = values.dtype.kind in "biuf"
    if is_numeric:
        has_value = np.isfinite(values.astype(np.float64))
    else:
        has_value = np.array([value is not None for value in values], dtype=bool)
    usable = ~np.isnan(score) & has_value
    score, values = score[usable], values[usable]
    length = None
    if lengths is not None:
        length = np.asarray(lengths, np.float64)[usable]
        if is_numeric and np.array_equal(values, length):
            length = None  # the column is the length
    if not is_numeric:
        values = values.astype(str)
    different = np.unique(values)
    if len(different) < 2 or len(score) < 4:
        return None
    if is_numeric and len(different) > 2:
        return _numeric(score, column, values.astype(np.float64), length)
    if len(different) > MOST_CATEGORIES:
        return None
    means = {}
    for value in different:
        means[str(value)] = float(score[values == value].mean())
    if len(different) == 2:
        return _binary(score, column, values == different[1], length, means)
    return Association(column, "categories", _eta_squared(score, values), None, len(score), None, means)


def _array(column: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return the values as an array of numbers or of objects; None among numbers becomes NaN.

    Raises:
        ValueError: if a value is a list, because rows are compared by one value each.
    """
    listed = list(values)  # type: ignore[arg-type]  # a sequence of one value per row
    if any(isinstance(value, (list, tuple, dict, np.ndarray)) for value in listed):
        raise ValueError(
            f"A column that is compared must hold one number, truth value or text in each row, but {column!r} holds "
            "lists. Leave it out."
        )
    present = [value for value in listed if value is not None]
    are_numbers = all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in present)
    if present and are_numbers and len(present) < len(listed):
        return np.array([np.nan if value is None else value for value in listed], dtype=np.float64)
    return np.asarray(values)


def partial_correlation(a: FloatArray, b: FloatArray, length: FloatArray) -> float:
    """Return the rank correlation of `a` and `b` without the effect of `length` on either."""
    rest_of_a = without_length(stats.rankdata(a), length)
    rest_of_b = without_length(stats.rankdata(b), length)
    if rest_of_a.std() < 1e-9 or rest_of_b.std() < 1e-9:
        return 0.0
    return float(stats.pearsonr(rest_of_a, rest_of_b).statistic)


def without_length(ranks: FloatArray, length: FloatArray) -> Floats:
    """Subtract from ranks what a straight line through the ranks of the lengths explains."""
    if np.ptp(length) == 0:
        explained: Floats = np.full(len(ranks), ranks.mean())
    else:
        by = stats.rankdata(length)
        line = stats.linregress(by, ranks)
        explained = line.intercept + line.slope * by
    return ranks - explained


def _numeric(score: Floats, column: str, values: Floats, length: Floats | None) -> Association:
    r = _spearman(score, values)
    error = (1 - r**2) / np.sqrt(max(len(score) - 2, 1))
    partial = None if length is None else partial_correlation(score, values, length)
    return Association(column, "numeric", r, float(error), len(score), partial)


def _binary(
    score: Floats, column: str, positive: npt.NDArray[np.bool_], length: Floats | None, means: dict[str, float]
) -> Association:
    auc = float(roc_auc_score(positive, score))
    equal = None
    if length is not None:
        equal = float(roc_auc_score(positive, without_length(stats.rankdata(score), length)))
    return Association(column, "binary", auc, _auc_error(auc, positive), len(score), equal, means)


def _auc_error(auc: float, positive: npt.NDArray[np.bool_]) -> float:
    """Return the standard error of an AUC by Hanley and McNeil (Radiology 143, 1982)."""
    p, q = int(positive.sum()), int((~positive).sum())
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (p - 1) * (q1 - auc**2) + (q - 1) * (q2 - auc**2)) / (p * q)
    return float(np.sqrt(variance))


def _eta_squared(score: Floats, values: npt.NDArray[Any]) -> float:
    """Return the share of the score's variance that lies between the values."""
    between = 0.0
    for value in np.unique(values):
        group = score[values == value]
        between += len(group) * float(group.mean() - score.mean()) ** 2
    total = float(((score - score.mean()) ** 2).sum())
    return between / total if total > 0 else 0.0


def _spearman(a: Floats, b: Floats) -> float:
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)
