"""Golden score, mean gain and standard error of each candidate, from log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nuggets_trainer.golden.arrays import FloatArray, Floats, Ints, LogProbs, row_blocks


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class GoldenScores:
    """Scores of n candidates; each array is `(n,)`.

    Attributes:
        golden_score: share of the scored anchors that the candidate wins, in [0, 1]; NaN if none was scored.
        standard_error: standard error of the golden score, see `standard_error`; NaN if no anchor was scored.
        mean_gain: mean gain over the scored anchors, nats per token; NaN if no anchor was scored.
        num_anchors: number of scored anchors.
    """

    golden_score: Floats
    standard_error: Floats
    mean_gain: Floats
    num_anchors: Ints


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class AnchorScores:
    """The m anchors, in the order given or in pool order.

    Attributes:
        pool_index: pool index of each anchor; None for anchors that were given.
        zero_shot: mean log-prob of each anchor, nats per token, `(m,)` float32; NaN if it could not be scored.
        num_tokens: number of scored completion tokens of each anchor, `(m,)`; 0 if it could not be scored.
        dropped: reason why an anchor could not be scored; None if it was scored.
        num_cut: number of anchors that lost their end to the 200-token limit of the `nuggets` template.
        set_names: name of the anchor set of each anchor; "" if there is only one set.
    """

    pool_index: list[int | None]
    zero_shot: LogProbs
    num_tokens: Ints
    dropped: list[str | None]
    num_cut: int
    set_names: list[str]

    def __len__(self) -> int:
        return len(self.dropped)


def golden_scores(zero_shot: FloatArray, one_shot: FloatArray) -> GoldenScores:
    """Count, for each candidate, the anchors that it makes more likely (paper, section 3.2).

    For candidate i and anchor j: `win = one_shot[i, j] > zero_shot[j]`, strictly, and
    `golden_score[i] = wins / scored anchors`. Log-probs are compared in the dtype given (float32 in the store); sums
    are float64. No candidate gets a default score: the score is NaN if no anchor was scored.

    Args:
        zero_shot: mean log-prob of each anchor's completion, `(m,)`, nats per token; NaN if it was not scored.
        one_shot: mean log-prob of each pair of candidate and anchor, `(n, m)`, nats per token; NaN if not scored.

    Returns:
        The scores of all candidates, arrays of shape `(n,)`.

    Example:
        >>> import numpy as np
        >>> scores = golden_scores(np.array([-2.0, -1.0]), np.array([[-1.5, -1.0], [np.nan, -0.5]]))
        >>> scores.golden_score.tolist(), scores.mean_gain.tolist(), scores.num_anchors.tolist()
        ([0.5, 1.0], [0.25, 0.5], [2, 1])
    """
    assert one_shot.ndim == 2 and one_shot.shape[1] == zero_shot.shape[0], (one_shot.shape, zero_shot.shape)
    n = len(one_shot)
    scores = GoldenScores(np.empty(n), np.empty(n), np.empty(n), np.empty(n, dtype=np.int64))
    for block in row_blocks(n):
        found = _block_scores(zero_shot, one_shot[block])
        scores.golden_score[block] = found.golden_score
        scores.standard_error[block] = found.standard_error
        scores.mean_gain[block] = found.mean_gain
        scores.num_anchors[block] = found.num_anchors
    return scores


def _block_scores(zero_shot: FloatArray, one_shot: FloatArray) -> GoldenScores:
    """Score some candidates; the float64 arrays of this function do not grow with the pool."""
    scored = ~np.isnan(one_shot) & ~np.isnan(zero_shot)
    num_anchors = scored.sum(axis=1)
    wins = (scored & (one_shot > zero_shot)).sum(axis=1)
    gain = np.where(scored, one_shot.astype(np.float64) - zero_shot.astype(np.float64), 0.0)
    has_score = num_anchors > 0
    divisor = np.where(has_score, num_anchors, 1)
    share = np.where(has_score, wins / divisor, np.nan)
    mean_gain = np.where(has_score, gain.sum(axis=1) / divisor, np.nan)
    return GoldenScores(share, standard_error(share, divisor), mean_gain, num_anchors.astype(np.int64))


def standard_error(share: Any, num_anchors: Any) -> Any:
    """Return the standard error of a golden score: `sqrt(p * (1 - p) / m)`, but at least that of Agresti and Coull.

    The plain formula gives 0 if all anchors are won, as if any other anchor were sure to be won too. Agresti and Coull
    (1998) add two wins and two losses: `sqrt(q * (1 - q) / (m + 4))` with `q = (wins + 2) / (m + 4)`. With the larger
    of the two, two standard errors about a golden score cover about 95%, near 0 and 1 too.

    Args:
        share: golden score p, in [0, 1]; a number or an array.
        num_anchors: number of scored anchors m; a number or an array.

    Returns:
        The standard error, of the same shape.

    Example:
        >>> [round(float(standard_error(p, 100)), 3) for p in (0.5, 0.8, 1.0)]
        [0.05, 0.04, 0.013]
    """
    adjusted = (share * num_anchors + 2) / (num_anchors + 4)
    plain = share * (1 - share) / num_anchors
    least = adjusted * (1 - adjusted) / (num_anchors + 4)
    return np.sqrt(np.maximum(plain, least))


def combined_scores(by_set: Sequence[GoldenScores], how: str) -> GoldenScores:
    """Combine the scores on several anchor sets into one.

    Args:
        by_set: scores of the same n candidates on each set.
        how: `mean` takes the mean over the sets of golden score and mean gain, each set counting alike; `worst` takes
            the golden score and standard error of the set with the lowest golden score, and the lowest mean gain.

    Returns:
        The combined scores, arrays of shape `(n,)`; NaN if a candidate has no scored anchor in one of the sets.

    Example:
        >>> import numpy as np
        >>> one = np.array([1])
        >>> sets = [GoldenScores(np.array([p]), np.array([0.3]), np.array([p]), one) for p in (0.2, 0.6)]
        >>> [round(float(combined_scores(sets, how).golden_score[0]), 2) for how in ("mean", "worst")]
        [0.4, 0.2]
    """
    share = np.stack([scores.golden_score for scores in by_set])
    error = np.stack([scores.standard_error for scores in by_set])
    gain = np.stack([scores.mean_gain for scores in by_set])
    num_anchors = np.sum([scores.num_anchors for scores in by_set], axis=0)
    if how == "mean":
        mean_error = np.sqrt(np.square(error).sum(axis=0)) / len(by_set)
        return GoldenScores(share.mean(axis=0), mean_error, gain.mean(axis=0), num_anchors)
    assert how == "worst", how
    unscored = np.isnan(share).any(axis=0)
    lowest = np.where(unscored, 0, np.nan_to_num(share).argmin(axis=0))
    candidates = np.arange(share.shape[1])
    return GoldenScores(
        golden_score=np.where(unscored, np.nan, share[lowest, candidates]),
        standard_error=np.where(unscored, np.nan, error[lowest, candidates]),
        mean_gain=np.where(unscored, np.nan, gain.min(axis=0)),
        num_anchors=num_anchors,
    )
