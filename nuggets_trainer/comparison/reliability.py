"""How much of a golden set is the choice of anchors, and how many would be enough. Pure numpy and scipy.

Knows no model and no files: only log-probs, as `golden.py` takes them. Every pair must be scored: a race leaves out
the pairs of candidates that are out of reach, and what is left is no random part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from nuggets_trainer.golden.scores import golden_scores
from nuggets_trainer.golden.selection import rank_candidates

Floats = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.floating]
ENOUGH = 0.9  # of a golden set, what two sets of as many anchors should have in common
MOST_CATEGORIES = 20  # a column of texts with more values is no grouping


@dataclass(frozen=True)
class Reliability:
    """How far golden scores depend on which anchors were taken.

    Attributes:
        num_candidates: candidates with a score.
        num_anchors: anchors that they were scored on.
        k: size of the golden set.
        split_half: correlation of the golden scores by two random halves of the anchors, mean over splits.
        golden_score: reliability of the score by all anchors, from `split_half` by Spearman-Brown,
            `2 r / (1 + r)`: its expected correlation with the score by as many other anchors of the same kind.
        mean_gain: the same of the mean gain.
        halves_share: share of the golden set that two halves of the anchors have in common.
        stays: share of the golden set that stays when the anchors are drawn anew with replacement, mean,
        stays_interval: and the middle 95% of the resamples.
        enough_anchors: how many anchors two golden sets need to have `ENOUGH` in common, extrapolated from
            `halves_share` (see `anchors_for_share`); None where that is out of reach (halves agree no better than
            chance).
    """

    num_candidates: int
    num_anchors: int
    k: int
    split_half: float
    golden_score: float
    mean_gain: float
    halves_share: float
    stays: float
    stays_interval: tuple[float, float]
    enough_anchors: int | None

    def describe(self) -> str:
        """Return it in a few lines."""
        enough = (
            "no number of such anchors would be enough: their halves agree no better than chance"
            if self.enough_anchors is None
            else f"about {float(f'{self.enough_anchors:.2g}'):,.0f} anchors would be enough for {ENOUGH:.0%}"
        )
        low, high = self.stays_interval
        return (
            f"reliability of the golden score {self.golden_score:.2f} (split halves {self.split_half:.2f}), of the "
            f"mean gain {self.mean_gain:.2f}\n"
            f"anchors drawn anew: {self.stays:.0%} of the golden set stays ({low:.0%} to {high:.0%})\n"
            f"golden sets of {self.k:,} by two halves of the {self.num_anchors} anchors share "
            f"{self.halves_share:.0%}; {enough}"
        )


def measure_reliability(
    zero_shot: FloatArray, one_shot: FloatArray, k: int, num_draws: int = 200, seed: int = 0
) -> Reliability:
    """Split the anchors in halves, and draw them anew, many times.

    Args:
        zero_shot: log-probs of the anchors, `(m,)`, nats per token; NaN where an anchor was dropped.
        one_shot: the same behind each candidate, `(n, m)`; NaN in whole rows that were dropped, and where a candidate
            is the anchor itself.
        k: size of the golden set.
        num_draws: random splits, and bootstrap samples.
        seed: of both.

    Raises:
        ValueError: if pairs were left out (a race), if there are fewer than four anchors, or not more than k
            candidates.

    Example:
        >>> import numpy as np
        >>> gain = np.random.default_rng(0).normal(np.linspace(-1, 1, 40)[:, None], 0.5, (40, 30))
        >>> found = measure_reliability(np.zeros(30), gain, k=4)
        >>> 0.95 < found.golden_score < 1, found.k
        (True, 4)
    """
    zero_shot, one_shot = complete_pairs(zero_shot, one_shot)
    n, m = one_shot.shape
    if m < 4:
        raise ValueError(f"Split halves need at least 4 anchors, got {m}. Give more anchors.")
    if not 0 < k < n:
        raise ValueError(f"`k` must be between 1 and {n - 1} (one less than the candidates with a score), got {k}.")
    generator = np.random.default_rng(seed)
    halves = np.array([_halves(zero_shot, one_shot, k, generator.permutation(m)) for _ in range(num_draws)])
    by_score, by_gain, share = halves.mean(axis=0)
    whole = _golden_set(zero_shot, one_shot, np.arange(m), k)
    drawn = generator.integers(0, m, size=(num_draws, m), dtype=np.int64)
    stays = [_share(whole, _golden_set(zero_shot, one_shot, anchors, k)) for anchors in drawn]
    low, high = np.quantile(stays, [0.025, 0.975])
    return Reliability(
        num_candidates=n,
        num_anchors=m,
        k=k,
        split_half=float(by_score),
        golden_score=spearman_brown(float(by_score), 2),
        mean_gain=spearman_brown(float(by_gain), 2),
        halves_share=float(share),
        stays=float(np.mean(stays)),
        stays_interval=(float(low), float(high)),
        enough_anchors=anchors_for_share(float(share), m // 2, k / n),
    )


def complete_pairs(zero_shot: FloatArray, one_shot: FloatArray) -> tuple[Floats, Floats]:
    """Leave out dropped candidates and anchors; refuse a matrix from which pairs were left out otherwise.

    A candidate may lack one anchor: itself.

    Raises:
        ValueError: for the matrix of a race.
    """
    anchors = np.isfinite(zero_shot)
    pairs = one_shot[:, anchors].astype(np.float64)
    pairs = pairs[np.isfinite(pairs).any(axis=1)]
    missing = np.isnan(pairs).sum(axis=1)
    if (missing > 1).any():
        raise ValueError(
            f"{int((missing > 1).sum()):,} of {len(pairs):,} candidates were not scored on all anchors, as a race "
            "leaves them. Score with `schedule='exact'` into the same `score_dir` first: what is stored is reused."
        )
    return zero_shot[anchors].astype(np.float64), pairs


def spearman_brown(correlation: float, factor: float) -> float:
    """Return the reliability of a score by `factor` times as many anchors.

    Example:
        >>> spearman_brown(0.5, 2)
        0.6666666666666666
    """
    return factor * correlation / (1 + (factor - 1) * correlation)


def anchors_for_share(share: float, num_anchors: int, fraction: float, target: float = ENOUGH) -> int | None:
    """Extrapolate how many anchors two golden sets need to have `target` of their rows in common.

    Under a normal law, two noisy scores with correlation r have `share_in_common(r, fraction)` of their top fraction
    in common. So the measured share gives r at the cut, Spearman-Brown gives r for another number of anchors.

    Args:
        share: of the golden set, in common between two sets of `num_anchors` anchors each.
        num_anchors: of each of the two.
        fraction: of the candidates, in the golden set.
        target: the share that is wanted.

    Returns:
        Number of anchors of each set; at least `num_anchors` where the measured share is 1. None where the share is no
        better than chance.
    """
    if share <= fraction:
        return None
    if share >= 1:
        return num_anchors

    def correlation(wanted: float) -> float:
        return float(optimize.brentq(lambda r: share_in_common(r, fraction) - wanted, 0.0, 1.0 - 1e-9))

    now, needed = correlation(share), correlation(target)
    factor = needed * (1 - now) / (now * (1 - needed))
    return max(1, int(np.ceil(factor * num_anchors)))


def share_in_common(correlation: float, fraction: float) -> float:
    """Share of the top fraction by one of two normal scores that is also in that by the other.

    Example:
        >>> round(share_in_common(0.0, 0.1), 6), round(share_in_common(1.0, 0.1), 6)
        (0.1, 1.0)
    """
    if correlation >= 1:
        return 1.0
    cut = stats.norm.ppf(fraction)
    both = stats.multivariate_normal.cdf([cut, cut], mean=[0, 0], cov=[[1, correlation], [correlation, 1]])
    return float(both / fraction)


def _halves(zero_shot: Floats, one_shot: Floats, k: int, order: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """Correlations of golden scores and of mean gains between two halves, and the share of the golden sets."""
    half = len(order) // 2
    a, b = (golden_scores(zero_shot[part], one_shot[:, part]) for part in (order[:half], order[half : 2 * half]))
    share = _share(rank_candidates(a)[:k], rank_candidates(b)[:k])
    return _pearson(a.golden_score, b.golden_score), _pearson(a.mean_gain, b.mean_gain), share


def _golden_set(zero_shot: Floats, one_shot: Floats, anchors: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    return rank_candidates(golden_scores(zero_shot[anchors], one_shot[:, anchors]))[:k]


def _share(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    return len(np.intersect1d(a, b)) / len(a)


def _pearson(a: Floats, b: Floats) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
