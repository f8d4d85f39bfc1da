"""What a golden score goes with: length, loss, columns of the source. Pure numpy and scipy; knows no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.floating]
MOST_CATEGORIES = 20  # a column of texts with more values is no grouping


@dataclass(frozen=True)
class Association:
    """How a golden score goes with one column.

    Attributes:
        column: its name.
        kind: `numeric` (Spearman's rank correlation), `binary` (AUC: how often a row with the larger value has the
            higher score, ties as half) or `categories` (eta squared: share of the variance between values).
        value: that number.
        standard_error: of a rank correlation, `(1 - r^2) / sqrt(n - 2)`; of an AUC by Hanley and McNeil; None for
            categories.
        num_rows: rows with both.
        at_equal_length: the same with the length of the completion held equal: partial rank correlation; AUC of what
            a straight line through the ranks of the lengths leaves of the score's ranks; None without lengths.
        means: mean golden score by value, of a binary column or of categories.
    """

    column: str
    kind: str
    value: float
    standard_error: float | None
    num_rows: int
    at_equal_length: float | None = None
    means: dict[str, float] | None = None

    def describe(self) -> str:
        """Return it in one line."""
        name = {"numeric": "rank correlation", "binary": "AUC", "categories": "eta squared"}[self.kind]
        error = "" if self.standard_error is None else f" +- {self.standard_error:.2f}"
        equal = "" if self.at_equal_length is None else f", at equal length {self.at_equal_length:+.2f}"
        means = "" if self.means is None else "; " + ", ".join(f"{k} {v:.2f}" for k, v in self.means.items())
        return f"{self.column}: {name} {self.value:+.2f}{error} (n={self.num_rows:,}){equal}{means}"


def associate(
    golden_score: FloatArray, column: str, values: npt.ArrayLike, lengths: npt.ArrayLike | None = None
) -> Association | None:
    """Hold golden scores against one column.

    Args:
        golden_score: `(n,)`, NaN where there is none.
        column: its name.
        values: `(n,)`: numbers, truth values or texts; None or NaN where there is none.
        lengths: of the completions, `(n,)`, to hold equal.

    Returns:
        The association; None where the column says nothing, because all values are alike or nearly all are different
        texts.
    """
    values = np.asarray(values)
    score = np.asarray(golden_score, dtype=np.float64)
    numeric = values.dtype.kind in "biuf"
    there = ~np.isnan(score) & (
        np.isfinite(values.astype(np.float64)) if numeric else np.array([v is not None for v in values], dtype=bool)
    )
    score, values = score[there], values[there]
    length = None if lengths is None else np.asarray(lengths, np.float64)[there]
    if numeric and length is not None and np.array_equal(values, length):
        length = None  # the column is the length
    found = np.unique(values if numeric else values.astype(str))
    if len(found) < 2 or len(score) < 4:
        return None
    if numeric and len(found) > 2:
        return _numeric(score, column, values.astype(np.float64), length)
    if len(found) > MOST_CATEGORIES:
        return None
    texts = values.astype(str)
    means = {str(value): float(score[texts == str(value)].mean()) for value in found}
    if len(found) == 2:
        return _binary(score, column, texts == str(found[1]), length, means)
    between = sum((texts == str(v)).sum() * (means[str(v)] - score.mean()) ** 2 for v in found)
    total = float(((score - score.mean()) ** 2).sum())
    value = float(between) / total if total > 0 else 0.0
    return Association(column, "categories", value, None, len(score), None, means)


def partial_correlation(a: FloatArray, b: FloatArray, held: FloatArray) -> float:
    """Rank correlation of `a` and `b` with `held` held equal, `(r_ab - r_ah r_bh) / sqrt((1-r_ah^2)(1-r_bh^2))`."""
    ab, ah, bh = _spearman(a, b), _spearman(a, held), _spearman(b, held)
    return float((ab - ah * bh) / np.sqrt(max((1 - ah**2) * (1 - bh**2), 1e-12)))


def _numeric(score: Floats, column: str, values: Floats, length: Floats | None) -> Association:
    r, n = _spearman(score, values), len(score)
    error = (1 - r**2) / np.sqrt(max(n - 2, 1))
    partial = None if length is None else partial_correlation(score, values, length)
    return Association(column, "numeric", r, float(error), n, partial)


def _binary(
    score: Floats, column: str, positive: npt.NDArray[np.bool_], length: Floats | None, means: dict[str, float]
) -> Association:
    a = _auc(score, positive)
    p, q = int(positive.sum()), int((~positive).sum())
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    error = np.sqrt((a * (1 - a) + (p - 1) * (q1 - a**2) + (q - 1) * (q2 - a**2)) / (p * q))
    equal = None
    if length is not None:
        ranks, by = stats.rankdata(score), stats.rankdata(length)
        equal = _auc(ranks - np.polyval(np.polyfit(by, ranks, 1), by), positive)
    return Association(column, "binary", a, float(error), len(score), equal, means)


def _auc(score: Floats, positive: npt.NDArray[np.bool_]) -> float:
    p = positive.sum()
    ranks = stats.rankdata(score)[positive].sum()
    return float((ranks - p * (p + 1) / 2) / (p * (~positive).sum()))


def _spearman(a: Any, b: Any) -> float:
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return 0.0
    return float(stats.spearmanr(a, b).statistic)
