"""Histograms, counts by anchor, and how a score goes with a length: arrays in, arrays out. Knows no files.

What is counted over all pairs is counted in blocks of rows, so that it needs no matrix in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

MAX_SCORE_BARS = 50


def score_edges(num_anchors: int) -> npt.NDArray[np.float64]:
    """Edges of the bars of a histogram of golden scores: each takes in equally many of the `num_anchors + 1` values.

    Example:
        >>> score_edges(2).tolist()
        [-0.25, 0.25, 0.75, 1.25]
    """
    step = -(-(num_anchors + 1) // MAX_SCORE_BARS)
    num_bars = -(-(num_anchors + 1) // step)
    return (np.arange(num_bars + 1) * step - 0.5) / num_anchors


def spread_edges(values: Floats, num_bars: int = 40) -> npt.NDArray[np.float64]:
    """Edges that take in all but the outer 1% of the values, on a round grid; the rest goes into the outer bars.

    Args:
        values: `(n,)`, finite.
        num_bars: how many bars, about.

    Returns:
        At least two edges.
    """
    low, high = np.quantile(values, [0.005, 0.995]) if len(values) else (-1.0, 1.0)
    step = round_step((high - low) / num_bars)
    return np.arange(np.floor(low / step), np.ceil(high / step) + 1.5) * step


def round_step(step: float) -> float:
    """Return the next larger of 1, 2, 5 times a power of ten."""
    if not step > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(step))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9)))


def clipped_counts(values: Floats, edges: npt.NDArray[np.float64]) -> list[int]:
    """Count values between edges; those outside go into the first and the last bar."""
    inside = np.clip(values, edges[0], np.nextafter(edges[-1], edges[0]))
    return [int(count) for count in np.histogram(inside, edges)[0]]


def grid_counts(x: Floats, y: Floats, x_edges: Floats, y_edges: Floats) -> list[list[int]]:
    """Count points in a grid, `[y][x]`; those outside go into the outer cells."""
    x, y = (np.clip(v, e[0], np.nextafter(e[-1], e[0])) for v, e in ((x, x_edges), (y, y_edges)))
    counts, _, _ = np.histogram2d(y, x, bins=[y_edges, x_edges])
    return [[int(count) for count in row] for row in counts]


def ranks(values: Floats) -> npt.NDArray[np.float64]:
    """Ranks from 1, of equal values their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)


def rank_correlation(x: Floats, y: Floats) -> float | None:
    """Spearman's correlation; None where one of the two does not vary.

    Example:
        >>> rank_correlation(np.array([1, 2, 3]), np.array([10, 30, 20]))
        0.5
    """
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return round(float(np.corrcoef(ranks(x), ranks(y))[0, 1]), 12)


def share_larger(some: Floats, others: Floats) -> float | None:
    """Share of pairs in which one of `some` is larger than one of `others`, ties half; None where there are none.

    Example:
        >>> share_larger(np.array([2, 3]), np.array([1, 2]))
        0.875
    """
    if not len(some) or not len(others):
        return None
    place = ranks(np.concatenate([some, others]))[: len(some)]
    return float((place.sum() - len(some) * (len(some) + 1) / 2) / (len(some) * len(others)))


@dataclass
class AnchorTally:
    """Counts by anchor over all pairs, `(m,)` each.

    Attributes:
        zero_shot: log-probs of the anchors, `(m,)`; NaN where not scored.
        scored, won: pairs of all rows.
        scored_kept, won_kept: those of the golden set.
        scored_sample, won_sample, gain: those of a random sample, and its sum of gains, nats per token.
    """

    zero_shot: npt.NDArray[np.float32]
    scored: Ints = field(init=False)
    won: Ints = field(init=False)
    scored_kept: Ints = field(init=False)
    won_kept: Ints = field(init=False)
    scored_sample: Ints = field(init=False)
    won_sample: Ints = field(init=False)
    gain: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        num_anchors = len(self.zero_shot)
        for rows in ("", "_kept", "_sample"):
            setattr(self, f"scored{rows}", np.zeros(num_anchors, dtype=np.int64))
            setattr(self, f"won{rows}", np.zeros(num_anchors, dtype=np.int64))
        self.gain = np.zeros(num_anchors)
        self._moments = np.zeros((6, num_anchors))  # of the sample: n, w, r, w * r, w * w, r * r

    def add(self, one_shot: npt.NDArray[np.float32], kept: Bools, sample: Bools) -> None:
        """Count a block of rows.

        Args:
            one_shot: log-probs `(b, m)`, NaN where not scored.
            kept: rows of the golden set, `(b,)`.
            sample: rows that were scored on all anchors, whatever they are worth, `(b,)`.
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
        wins, num_scored = won.sum(axis=1, keepdims=True), scored.sum(axis=1, keepdims=True)
        usable = scored & (num_scored > 1)
        w = won.astype(np.float32)
        r = ((wins - w) / np.maximum(num_scored - 1, 1)).astype(np.float32)
        for moment, term in zip(self._moments, (1, w, r, w * r, w * w, r * r), strict=True):
            moment += np.where(usable, term, 0).sum(axis=0, dtype=np.float64)

    def discrimination(self) -> npt.NDArray[np.float64]:
        """Correlate winning an anchor with the golden score on all others, `(m,)`, over the sample.

        The item-rest correlation of test theory; over rows that were selected by their total it would be far too low.
        NaN for an anchor that all of the sample win, or none.
        """
        n, w, r, wr, ww, rr = self._moments
        of_wins, of_rest = n * ww - w * w, n * rr - r * r  # n squared times the variances
        varies = (of_wins > 0.5) & (of_rest > 1e-9 * n * n)
        variance = np.where(varies, of_wins * of_rest, 1.0)
        return np.where(varies, (n * wr - w * r) / np.sqrt(variance), np.nan)
