"""Histograms, counts by anchor, and how a score goes with a length: arrays in, arrays out.

Counts over all pairs are made block by block, so that no matrix has to fit in memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, spearmanr

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]

MAX_SCORE_BARS = 50
OUTER_SHARES = (0.005, 0.995)  # quantiles that a histogram of gains reaches from and to


def score_edges(num_anchors: int) -> npt.NDArray[np.float64]:
    """Return edges for a histogram of golden scores: each bar holds equally many of the `num_anchors + 1` values.

    Example:
        >>> score_edges(2).tolist()
        [-0.25, 0.25, 0.75, 1.25]
    """
    step = -(-(num_anchors + 1) // MAX_SCORE_BARS)
    num_bars = -(-(num_anchors + 1) // step)
    return (np.arange(num_bars + 1) * step - 0.5) / num_anchors


def trimmed_edges(values: Floats, num_bars: int = 40) -> npt.NDArray[np.float64]:
    """Return edges on a round grid that reach over all values but the outer 1%, which go into the outer bars.

    Args:
        values: finite numbers, `(n,)`.
        num_bars: approximate number of bars.

    Returns:
        At least two edges.
    """
    low, high = -1.0, 1.0
    if len(values):
        low, high = np.quantile(values, OUTER_SHARES)
    step = round_step((high - low) / num_bars)
    return np.arange(np.floor(low / step), np.ceil(high / step) + 1.5) * step


def round_step(step: float) -> float:
    """Return the next larger of 1, 2, 5 times a power of ten."""
    if not step > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(step))
    for factor in (1, 2, 5):
        if factor * power >= step * (1 - 1e-9):
            return float(factor * power)
    return float(10 * power)


def clipped_counts(values: Floats, edges: npt.NDArray[np.float64]) -> list[int]:
    """Count values between edges; those outside go into the first and the last bar."""
    counts: list[int] = np.histogram(_clipped(values, edges), edges)[0].tolist()
    return counts


def grid_counts(x: Floats, y: Floats, x_edges: Floats, y_edges: Floats) -> list[list[int]]:
    """Count points in a grid, `[y][x]`; those outside go into the outer cells."""
    counts, _, _ = np.histogram2d(_clipped(y, y_edges), _clipped(x, x_edges), bins=[y_edges, x_edges])
    rows: list[list[int]] = counts.astype(np.int64).tolist()
    return rows


def _clipped(values: Floats, edges: Floats) -> Floats:
    """Move values outside the edges just inside."""
    return np.clip(values, edges[0], np.nextafter(edges[-1], edges[0]))


def rank_correlation(x: Floats, y: Floats) -> float | None:
    """Return Spearman's correlation; None if one of the two does not vary.

    Example:
        >>> rank_correlation(np.array([1, 2, 3]), np.array([10, 30, 20]))
        0.5
    """
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return round(float(spearmanr(x, y).statistic), 12)


def share_larger(some: Floats, others: Floats) -> float | None:
    """Return the share of pairs in which one of `some` is larger than one of `others`; a tie counts half.

    This is the area under the ROC curve, by the sum of ranks. None if there are no pairs.

    Example:
        >>> share_larger(np.array([2, 3]), np.array([1, 2]))
        0.875
    """
    if not len(some) or not len(others):
        return None
    rank_sum = rankdata(np.concatenate([some, others]))[: len(some)].sum()
    return float((rank_sum - len(some) * (len(some) + 1) / 2) / (len(some) * len(others)))


class AnchorTally:
    """Counts of each anchor over all pairs, `(m,)` each.

    Args:
        zero_shot: log-probs of the anchors, `(m,)`; NaN for anchors that could not be scored.

    Attributes:
        zero_shot: the same log-probs.
        scored: pairs of all rows; `won` counts the wins among them.
        scored_kept: pairs of the golden set; `won_kept` counts the wins among them.
        scored_sample: pairs of a random sample of rows; `won_sample` counts the wins among them.
        gain: sum of the sample's gains, nats per token.
    """

    def __init__(self, zero_shot: npt.NDArray[np.float32]) -> None:
        self.zero_shot = zero_shot
        self.scored, self.won = np.zeros((2, len(zero_shot)), dtype=np.int64)
        self.scored_kept, self.won_kept = np.zeros((2, len(zero_shot)), dtype=np.int64)
        self.scored_sample, self.won_sample = np.zeros((2, len(zero_shot)), dtype=np.int64)
        self.gain = np.zeros(len(zero_shot))
        self._moments = np.zeros((6, len(zero_shot)))  # sums over the sample: 1, w, r, w * r, w * w, r * r

    def add(self, one_shot: npt.NDArray[np.float32], kept: Bools, sample: Bools) -> None:
        """Count a block of rows.

        Args:
            one_shot: log-probs `(b, m)`; NaN for pairs that were not scored.
            kept: whether a row is in the golden set, `(b,)`.
            sample: whether a row was scored on all anchors however good it is, `(b,)`.
        """
        scored = ~np.isnan(one_shot) & ~np.isnan(self.zero_shot)
        won = scored & (one_shot > self.zero_shot)
        self.scored += scored.sum(axis=0)
        self.won += won.sum(axis=0)
        self.scored_kept += scored[kept].sum(axis=0)
        self.won_kept += won[kept].sum(axis=0)
        scored, won, gain = scored[sample], won[sample], one_shot[sample] - self.zero_shot
        self.scored_sample += scored.sum(axis=0)
        self.won_sample += won.sum(axis=0)
        self.gain += np.where(scored, gain, np.float32(0)).sum(axis=0, dtype=np.float64)
        self._add_moments(scored, won)

    def _add_moments(self, scored: Bools, won: Bools) -> None:
        """Add the sample's sums: `w` is a win on this anchor, `r` the golden score on all other anchors."""
        wins, num_scored = won.sum(axis=1, keepdims=True), scored.sum(axis=1, keepdims=True)
        usable = scored & (num_scored > 1)
        w = won.astype(np.float32)
        r = ((wins - w) / np.maximum(num_scored - 1, 1)).astype(np.float32)
        for moment, term in zip(self._moments, (1, w, r, w * r, w * w, r * r), strict=True):
            moment += np.where(usable, term, 0).sum(axis=0, dtype=np.float64)

    def discrimination(self) -> npt.NDArray[np.float64]:
        """Correlate winning an anchor with the golden score on all others, `(m,)`, over the sample.

        This is the item-rest correlation of test theory. Over rows that were selected by their total it would be far
        too low. NaN for an anchor that every row of the sample wins, or none.
        """
        n, w, r, wr, ww, rr = self._moments
        w_variance, r_variance = n * ww - w * w, n * rr - r * r  # times n squared
        varies = (w_variance > 0.5) & (r_variance > 1e-9 * n * n)
        product = np.where(varies, w_variance * r_variance, 1.0)
        return np.where(varies, (n * wr - w * r) / np.sqrt(product), np.nan)
