"""How far a golden set depends on the choice of anchors, and how many anchors would be enough.

The functions take log-probs. Every pair must be scored: a race leaves out the pairs of candidates that are out of
reach, and the pairs that are left are not a random part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from nuggets_trainer.golden.arrays import FloatArray, Floats
from nuggets_trainer.golden.gains import AnchorScale, anchor_scale
from nuggets_trainer.golden.ranking import RANKED_VALUES, rank_candidates
from nuggets_trainer.golden.scores import GoldenScores, golden_scores

FEWEST_ANCHORS = 4  # two in each half
NEARLY_ONE = 1.0 - 1e-9  # correlation above which nothing can be told from 1
ENOUGH = 0.9  # share of the golden set that two sets of enough anchors have in common


@dataclass(frozen=True)
class Reliability:
    """How far golden scores and gains depend on which anchors were taken.

    Attributes:
        num_candidates: number of candidates with a score.
        num_anchors: number of anchors that they were scored on.
        k: size of the golden set.
        split_half: correlation of the values that rows are ranked by from two random halves of the anchors, mean over
            splits.
        golden_score: reliability of the score from all anchors, `2 r / (1 + r)` of the correlation r of halves
            (Spearman-Brown): its expected correlation with the score from as many other anchors of the same kind.
        mean_gain: reliability of the mean gain, computed in the same way.
        gain: reliability of the standardised gain, computed in the same way.
        rank_by: value that the golden sets below are ranked by.
        halves_share: share of the golden set that two halves of the anchors have in common.
        stays: share of the golden set that stays if the anchors are drawn again with replacement, mean over draws.
        stays_interval: middle 95% of that share over the draws.
        enough_anchors: number of anchors that two golden sets need to have `ENOUGH` in common, extrapolated from
            `halves_share` (see `anchors_for_share`); None if halves agree no better than chance.
    """

    num_candidates: int
    num_anchors: int
    k: int
    split_half: float
    golden_score: float
    mean_gain: float
    gain: float
    rank_by: str
    halves_share: float
    stays: float
    stays_interval: tuple[float, float]
    enough_anchors: int | None

    def describe(self) -> str:
        """Write the figures in three lines."""
        if self.enough_anchors is None:
            enough = "no number of such anchors would be enough, because halves agree no better than chance"
        else:
            two_digits = float(f"{self.enough_anchors:.2g}")
            enough = f"about {two_digits:,.0f} anchors would be enough for {ENOUGH:.0%}"
        low, high = self.stays_interval
        values = []
        for name, ranked in RANKED_VALUES.items():
            halves = f" (correlation of halves {self.split_half:.2f})" if name == self.rank_by else ""
            values.append(f"{getattr(self, name):.2f} of the {ranked.words}{halves}")
        return (
            f"reliability {', '.join(values)}\n"
            f"with the anchors drawn again, {self.stays:.0%} of the golden set stays (95% of the draws: {low:.0%} to "
            f"{high:.0%})\n"
            f"golden sets from two halves of the {self.num_anchors} anchors have "
            f"{self.halves_share:.0%} in common; {enough}"
        )


def measure_reliability(
    zero_shot: FloatArray,
    one_shot: FloatArray,
    k: int,
    num_draws: int = 200,
    seed: int = 0,
    rank_by: str = "golden_score",
) -> Reliability:
    """Measure the reliability: split the anchors into halves, and draw them again, many times.

    Args:
        zero_shot: zero-shot log-probs of the anchors, `(m,)`, nats per token; NaN for dropped anchors.
        one_shot: log-probs of the anchors behind each candidate, `(n, m)`; NaN in the whole row of a dropped
            candidate, and for a candidate that is the anchor itself.
        k: size of the golden set.
        num_draws: number of random splits, and of bootstrap samples.
        seed: seed of the splits and of the bootstrap.
        rank_by: value that golden sets are ranked by; the scale of the gains is that of all candidates.

    Raises:
        ValueError: if a race left out pairs, if there are fewer than four anchors, or if there are not more than k
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
    if m < FEWEST_ANCHORS:
        raise ValueError(f"Reliability needs at least {FEWEST_ANCHORS} anchors, got {m}. Give more anchors.")
    if not 0 < k < n:
        raise ValueError(f"`k` must be between 1 and {n - 1} (one less than the candidates with a score), got {k}.")
    pairs = _Pairs(zero_shot, one_shot, anchor_scale(zero_shot, one_shot), rank_by)
    generator = np.random.default_rng(seed)
    of_halves, halves_share = pairs.compare_halves(k, num_draws, generator)
    stays = pairs.draw_again(k, num_draws, generator)
    low, high = np.quantile(stays, [0.025, 0.975])
    return Reliability(
        num_candidates=n,
        num_anchors=m,
        k=k,
        split_half=of_halves[rank_by],
        golden_score=spearman_brown(of_halves["golden_score"], 2),
        mean_gain=spearman_brown(of_halves["mean_gain"], 2),
        gain=spearman_brown(of_halves["gain"], 2),
        rank_by=rank_by,
        halves_share=halves_share,
        stays=float(np.mean(stays)),
        stays_interval=(float(low), float(high)),
        enough_anchors=anchors_for_share(halves_share, m // 2, k / n),
    )


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class _Pairs:
    """Log-probs of all candidates, to be scored on some of the anchors."""

    zero_shot: Floats
    one_shot: Floats
    scale: AnchorScale
    rank_by: str

    def scores(self, anchors: npt.NDArray[np.int64]) -> GoldenScores:
        """Score all candidates on these anchors; an anchor may be drawn more than once."""
        return golden_scores(self.zero_shot[anchors], self.one_shot[:, anchors], self.scale.of(anchors))

    def golden_set(self, anchors: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
        """Return the k best candidates by these anchors."""
        return rank_candidates(self.scores(anchors), self.rank_by)[:k]

    def compare_halves(self, k: int, num_draws: int, generator: np.random.Generator) -> tuple[dict[str, float], float]:
        """Split the anchors into random halves.

        Returns:
            Mean correlation of the two halves by the name of each value, and the mean share that golden sets of size
            k have in common.
        """
        num_anchors = len(self.zero_shot)
        half = num_anchors // 2
        correlations, share = np.empty((num_draws, len(RANKED_VALUES))), np.empty(num_draws)
        for draw in range(num_draws):
            order = generator.permutation(num_anchors)
            a, b = self.scores(order[:half]), self.scores(order[half : 2 * half])
            correlations[draw] = [_pearson(ranked.of(a), ranked.of(b)) for ranked in RANKED_VALUES.values()]
            share[draw] = _share_of(rank_candidates(a, self.rank_by)[:k], rank_candidates(b, self.rank_by)[:k])
        of_halves = dict(zip(RANKED_VALUES, correlations.mean(axis=0).tolist(), strict=True))
        return of_halves, float(share.mean())

    def draw_again(self, k: int, num_draws: int, generator: np.random.Generator) -> Floats:
        """Return the share of the golden set of size k that stays with anchors drawn again, `(num_draws,)`."""
        num_anchors = len(self.zero_shot)
        whole = self.golden_set(np.arange(num_anchors), k)
        stays = np.empty(num_draws)
        drawn = generator.integers(0, num_anchors, size=(num_draws, num_anchors), dtype=np.int64)
        for draw, anchors in enumerate(drawn):
            stays[draw] = _share_of(whole, self.golden_set(anchors, k))
        return stays


def complete_pairs(zero_shot: FloatArray, one_shot: FloatArray) -> tuple[Floats, Floats]:
    """Leave out dropped candidates and anchors; refuse a matrix in which other pairs are missing.

    A candidate may lack one anchor, itself, as often as that anchor is listed.

    Raises:
        ValueError: if pairs are missing, as after a race.
    """
    anchors = np.isfinite(zero_shot)
    pairs = one_shot[:, anchors].astype(np.float64)
    pairs = pairs[np.isfinite(pairs).any(axis=1)]
    missing = np.isnan(pairs).sum(axis=1)
    if (missing > 1).any():
        missing = np.isnan(pairs[:, _different_anchors(pairs)]).sum(axis=1)
    if (missing > 1).any():
        raise ValueError(
            f"All candidates must be scored on all anchors, but {int((missing > 1).sum()):,} of {len(pairs):,} are "
            "not, as after a race. Score with `schedule='exact'` into the same `score_dir`: it reuses what is stored."
        )
    return zero_shot[anchors].astype(np.float64), pairs


def _different_anchors(pairs: Floats) -> npt.NDArray[np.int64]:
    """Return the first place of each anchor; the columns of an anchor that is listed twice hold the same numbers."""
    comparable = np.where(np.isnan(pairs), np.inf, pairs)  # NaN equals nothing
    _, places = np.unique(comparable, axis=1, return_index=True)
    return np.sort(places)


def spearman_brown(correlation: float, factor: float) -> float:
    """Return the reliability of a score from `factor` times as many anchors; no correlation is below -1.

    Example:
        >>> spearman_brown(0.5, 2)
        0.6666666666666666
    """
    rest = 1 + (factor - 1) * correlation
    return max(-1.0, factor * correlation / rest) if rest > 0 else -1.0


def anchors_for_share(share: float, num_anchors: int, fraction: float, target: float = ENOUGH) -> int | None:
    """Extrapolate how many anchors two golden sets need to have `target` of their rows in common.

    Two normal scores with correlation r have `share_in_common(r, fraction)` of their top fraction in common. So the
    measured share gives r, and Spearman-Brown gives r for another number of anchors.

    Args:
        share: share of the golden set that two sets of `num_anchors` anchors each have in common.
        num_anchors: number of anchors in each of the two sets.
        fraction: share of the candidates that are in the golden set.
        target: share that is wanted.

    Returns:
        The number of anchors of each set; `num_anchors` if the measured share is 1, 1 if chance alone gives the
        target, None if the share is no better than chance.
    """
    if share <= fraction:
        return None
    if target <= fraction:
        return 1
    now, needed = correlation_for_share(share, fraction), correlation_for_share(target, fraction)
    if now >= NEARLY_ONE:
        return num_anchors
    factor = needed * (1 - now) / (now * (1 - needed))
    return max(1, int(np.ceil(factor * num_anchors)))


def correlation_for_share(share: float, fraction: float) -> float:
    """Return the correlation at which two normal scores have this share of their top fraction in common.

    Args:
        share: share in common.
        fraction: share of the candidates that is the top.

    Returns:
        The correlation, from 0 (chance) to 1.

    Example:
        >>> from nuggets_trainer.golden.reliability import correlation_for_share, share_in_common
        >>> round(correlation_for_share(share_in_common(0.7, 0.1), 0.1), 6)
        0.7
    """
    if share <= fraction:
        return 0.0
    if share >= share_in_common(NEARLY_ONE, fraction):
        return 1.0
    return float(optimize.brentq(lambda r: share_in_common(r, fraction) - share, 0.0, NEARLY_ONE))


def share_in_common(correlation: float, fraction: float) -> float:
    """Return which share of the top fraction two normal scores with this correlation have in common.

    Example:
        >>> round(share_in_common(0.0, 0.1), 6), round(share_in_common(1.0, 0.1), 6)
        (0.1, 1.0)
    """
    if correlation >= 1:
        return 1.0
    cut = stats.norm.ppf(fraction)
    both = stats.multivariate_normal.cdf([cut, cut], mean=[0, 0], cov=[[1, correlation], [correlation, 1]])
    return float(both / fraction)


def _share_of(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    return len(np.intersect1d(a, b)) / len(a)


def _pearson(a: Floats, b: Floats) -> float:
    """Return the correlation of the scores that both have; 0 for scores that are all equal.

    A candidate has no score from a half that consists of nothing but itself, listed more than once.
    """
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
