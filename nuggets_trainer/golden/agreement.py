"""What other anchors would change: how far a ranking by these anchors is the ranking by others of the same kind.

Works on a random sample of candidates that are scored on all anchors: all of a small pool, or the pilot of a race.
`nuggets_trainer.golden.reliability` measures more, on whole pools.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from nuggets_trainer.golden.arrays import Bools, FloatArray, Floats, Ints
from nuggets_trainer.golden.gains import anchor_scale, gains_of
from nuggets_trainer.golden.reliability import correlation_for_share, spearman_brown

NUM_SPLITS = 50  # random halves of the anchors
FEWEST_ROWS = 16  # rows from which a correlation says anything
FEWEST_JUDGED = 30  # rows from which a sample is judged by it: over fewer it is off by 0.2 or more
FEWEST_KEPT = 5  # rows of a sample's golden set whose share in two halves is counted
FEWEST_HALF = 2  # anchors in each half
TOP = 0.25  # share of the golden set that is its top
# A ranking is worthless below this reliability, or if a larger share of the anchors decides nothing: the early look of
# a run warns of it, and so does the verdict of its report. Measured on two real models (docs/log/reliability.md): 0.6
# and more with 32 anchors on pools that are worth scoring; 0 and 100% where the zero-shot text has no BOS but the
# model needs it.
LOW_RELIABILITY = 0.3
MOST_USELESS = 0.5

Half = tuple[Floats, Floats]  # values to rank by and to break ties by, of all splits, each (p, splits)


@dataclass(frozen=True)
class Agreement:
    """How far a golden set depends on which anchors were taken.

    Attributes:
        num_rows: number of candidates that it was measured on.
        num_anchors: number of anchors.
        reliability: expected correlation of the scores with those from as many other anchors of the same kind
            (Spearman-Brown from halves); None if there are too few rows or anchors to tell.
        stays: share of the golden set that would stay with as many other anchors; None if that is not known.
        top_stays: share of the best quarter of the golden set that would stay in it; None if that is not known.
        num_won_by_all: number of anchors that every one of these candidates wins.
        num_won_by_none: number of anchors that none of them wins.
    """

    num_rows: int
    num_anchors: int
    reliability: float | None
    stays: float | None
    top_stays: float | None
    num_won_by_all: int
    num_won_by_none: int

    @property
    def num_useless(self) -> int:
        """Number of anchors that decide nothing."""
        return self.num_won_by_all + self.num_won_by_none

    def reliability_with(self, num_anchors: int) -> float | None:
        """Return the reliability that another number of such anchors would give; None if it is not known.

        Example:
            >>> from nuggets_trainer.golden.agreement import Agreement
            >>> round(Agreement(64, 100, 0.8, None, None, 0, 0).reliability_with(50), 2)
            0.67
        """
        if self.reliability is None:
            return None
        return spearman_brown(self.reliability, num_anchors / self.num_anchors)


def measure_agreement(
    zero_shot: FloatArray, one_shot: FloatArray, fraction: float, rank_by: str = "golden_score"
) -> Agreement:
    """Compare rankings by random halves of the anchors, and extrapolate to as many other anchors.

    Drawing the same anchors again with replacement would not do: such a draw shares two thirds of the anchors, and
    says that 61% of a golden set stay where 37% do (docs/log/reliability.md).

    Args:
        zero_shot: zero-shot log-probs of the anchors, `(m,)`, nats per token; NaN for dropped anchors.
        one_shot: log-probs of the anchors behind each candidate of a random sample, `(p, m)`; NaN for a candidate
            that is the anchor itself, and in the whole row of a candidate without a score.
        fraction: share of the candidates that the golden set keeps.
        rank_by: value that the candidates are ranked by: `golden_score`, `gain` or `mean_gain`.

    Example:
        >>> import numpy as np
        >>> from nuggets_trainer.golden.agreement import measure_agreement
        >>> gain = np.random.default_rng(0).normal(np.linspace(-1, 1, 60)[:, None], 1.0, (60, 40))
        >>> found = measure_agreement(np.zeros(40), gain, 0.1)
        >>> found.reliability > 0.8, 0.2 < found.stays < found.top_stays <= 1
        (True, True)
    """
    anchors = np.isfinite(zero_shot)
    pairs = one_shot[:, anchors]
    pairs = pairs[np.isfinite(pairs).any(axis=1)]
    scored = np.isfinite(pairs)
    num_rows, num_anchors = pairs.shape
    reliability, stays, top_stays = None, None, None
    if num_rows >= FEWEST_ROWS and num_anchors >= 2 * FEWEST_HALF:
        values, tie_breaker = _pair_values(zero_shot[anchors], pairs, rank_by)
        first, second = _halves(values, tie_breaker, scored)
        reliability = spearman_brown(_mean_correlation(first[0], second[0]), 2)
        stays, top_stays = _what_stays(first, second, fraction)
    won_by_all, won_by_none = deciding_nothing(zero_shot[anchors], pairs)
    return Agreement(
        num_rows=num_rows,
        num_anchors=num_anchors,
        reliability=reliability,
        stays=stays,
        top_stays=top_stays,
        num_won_by_all=int(won_by_all.sum()),
        num_won_by_none=int(won_by_none.sum()),
    )


def deciding_nothing(zero_shot: FloatArray, one_shot: FloatArray) -> tuple[Bools, Bools]:
    """Find the anchors that cannot tell any two of some candidates apart.

    Args:
        zero_shot: zero-shot log-probs of the anchors, `(m,)`; NaN for dropped anchors.
        one_shot: log-probs behind each candidate, `(p, m)`; NaN where a pair is not scored.

    Returns:
        Whether each anchor is won by all of them, and whether by none, each `(m,)`; False for an anchor without pairs.

    Example:
        >>> import numpy as np
        >>> deciding_nothing(np.zeros(3), np.array([[1.0, -1.0, 1.0], [1.0, -1.0, -1.0]]))
        (array([ True, False, False]), array([False,  True, False]))
    """
    scored = np.isfinite(one_shot) & np.isfinite(zero_shot)
    won = scored & (one_shot > zero_shot)
    has_pairs: Bools = np.asarray(scored.any(axis=0))
    won_by_all: Bools = has_pairs & (won | ~scored).all(axis=0)
    won_by_none: Bools = has_pairs & ~won.any(axis=0)
    return won_by_all, won_by_none


def _pair_values(zero_shot: FloatArray, one_shot: FloatArray, rank_by: str) -> tuple[Floats, Floats]:
    """Return what is averaged over the anchors to rank by, and to break ties, each `(p, m)`; 0 where not scored."""
    gains, scored = gains_of(zero_shot, one_shot)
    won = (scored & (one_shot > zero_shot)).astype(np.float64)
    if rank_by == "golden_score":
        return won, gains
    if rank_by == "gain":
        gains = np.where(scored, anchor_scale(zero_shot, one_shot).standardise(gains), 0.0)
    return gains, won


def _halves(values: Floats, tie_breaker: Floats, scored: Bools) -> tuple[Half, Half]:
    """Score all rows on both halves of many random splits of the anchors."""
    num_anchors = values.shape[1]
    half = num_anchors // 2
    generator = np.random.default_rng(0)
    members = np.zeros((2, num_anchors, NUM_SPLITS))
    for split in range(NUM_SPLITS):
        order = generator.permutation(num_anchors)
        members[0, order[:half], split] = 1
        members[1, order[half : 2 * half], split] = 1
    found = []
    for chosen in members:
        # A row that is itself one of the anchors has one pair fewer.
        number = np.maximum(scored @ chosen, 1)
        found.append((values @ chosen / number, tie_breaker @ chosen / number))
    return found[0], found[1]


def _mean_correlation(first: Floats, second: Floats) -> float:
    """Return the mean over the splits of the correlation over the rows; 0 where all scores are equal."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    spread = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    together = (a * b).sum(axis=0)
    correlations = np.where(spread > 1e-12, together / np.maximum(spread, 1e-12), 0.0)
    return float(correlations.mean())


def _what_stays(first: Half, second: Half, fraction: float) -> tuple[float | None, float | None]:
    """Return which share of a golden set of this size stays with other anchors, and which share of its top.

    The share that two halves have in common gives the correlation of two normal scores near the cut; Spearman-Brown
    gives the correlation for all anchors, and that gives the shares.
    """
    num_rows = len(first[0])
    num_kept = max(FEWEST_KEPT, round(fraction * num_rows))
    if num_kept >= num_rows or not 0 < fraction < 1:
        return None, None
    shares = []
    for split in range(NUM_SPLITS):
        kept = _best(first, split, num_kept)
        shares.append(len(np.intersect1d(kept, _best(second, split, num_kept))) / num_kept)
    of_halves = correlation_for_share(float(np.mean(shares)), num_kept / num_rows)
    of_all = min(1.0, max(0.0, spearman_brown(of_halves, 2)))
    return _share_that_stays(of_all, fraction, fraction), _share_that_stays(of_all, TOP * fraction, fraction)


def _best(half: Half, split: int, number: int) -> Ints:
    """Rows of the best values; equal ones by the tie-breaker, then by place."""
    values, tie_breaker = half
    return np.lexsort((-tie_breaker[:, split], -values[:, split]))[:number]


def _share_that_stays(correlation: float, top: float, fraction: float) -> float:
    """Return which share of the rows in the top by one normal score is kept by another one of this correlation."""
    if correlation >= 1:
        return 1.0
    cuts = [stats.norm.ppf(top), stats.norm.ppf(fraction)]
    both = stats.multivariate_normal.cdf(cuts, mean=[0, 0], cov=[[1, correlation], [correlation, 1]])
    return min(1.0, float(both / top))


def anchors_for_reliability(reliability: float, num_anchors: int, target: float) -> float:
    """Return how many anchors give a reliability, by Spearman-Brown; infinite if it is not above 0.

    Args:
        reliability: measured reliability.
        num_anchors: number of anchors that it was measured with.
        target: reliability that is wanted, below 1.

    Example:
        >>> from nuggets_trainer.golden.agreement import anchors_for_reliability
        >>> round(anchors_for_reliability(0.6, 32, 0.9))
        192
    """
    if reliability <= 0:
        return math.inf
    if reliability >= 1:
        return 1.0
    return num_anchors * target * (1 - reliability) / (reliability * (1 - target))
