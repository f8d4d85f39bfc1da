"""Golden score, mean gain and standard error from log-probs. Pure numpy; knows nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
BLOCK = 65536  # candidates whose gains are held at a time


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class GoldenScores:
    """What the log-probs say about each candidate; arrays of shape `(n,)`.

    Attributes:
        golden_score: share of scored anchors won, in [0, 1]; NaN where no anchor was scored.
        standard_error: of that share, see `standard_error`; NaN likewise.
        mean_gain: mean gain over the scored anchors, nats per token; NaN likewise.
        num_anchors: anchors scored (int).
    """

    golden_score: npt.NDArray[np.float64]
    standard_error: npt.NDArray[np.float64]
    mean_gain: npt.NDArray[np.float64]
    num_anchors: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class AnchorScores:
    """The anchors, `m` of them, in the order given or in pool order.

    Attributes:
        pool_index: pool index of each, None when anchors were given.
        zero_shot: mean log-prob, nats per token, `(m,)` float32; NaN when it could not be scored.
        num_tokens: completion tokens scored, `(m,)`; 0 when it could not be scored.
        dropped: None, or the reason why it could not be scored.
        num_cut: anchors that lost their end to the 200-token limit of the `nuggets` template.
        set_names: of each the anchor set it belongs to; an empty name where there is one set alone.
    """

    pool_index: list[int | None]
    zero_shot: npt.NDArray[np.float32]
    num_tokens: npt.NDArray[np.int64]
    dropped: list[str | None]
    num_cut: int
    set_names: list[str]

    def __len__(self) -> int:
        return len(self.dropped)


def golden_scores(zero_shot: FloatArray, one_shot: FloatArray) -> GoldenScores:
    """Count, for each candidate, the anchors that it makes more likely (paper, section 3.2).

    For candidate i and anchor j: `win = one_shot[i, j] > zero_shot[j]`, strictly, and
    `golden_score[i] = wins / anchors scored`. Comparison is in the dtype given (float32 in the
    store), sums are in float64. No candidate gets a default score: without a scored anchor it
    is NaN.

    Args:
        zero_shot: mean log-prob of each anchor's completion, `(m,)`, nats per token; NaN where it was not scored.
        one_shot: the same behind each candidate, `(n, m)`; NaN where the pair was not scored.

    Returns:
        One `GoldenScores` of shape `(n,)`.

    Example:
        >>> import numpy as np
        >>> scores = golden_scores(np.array([-2.0, -1.0]), np.array([[-1.5, -1.0], [np.nan, -0.5]]))
        >>> scores.golden_score.tolist(), scores.mean_gain.tolist(), scores.num_anchors.tolist()
        ([0.5, 1.0], [0.25, 0.5], [2, 1])
    """
    assert one_shot.ndim == 2 and one_shot.shape[1] == zero_shot.shape[0], (one_shot.shape, zero_shot.shape)
    parts = [_block_scores(zero_shot, one_shot[a : a + BLOCK]) for a in range(0, max(1, len(one_shot)), BLOCK)]
    return GoldenScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _block_scores(zero_shot: FloatArray, one_shot: FloatArray) -> tuple[npt.NDArray[Any], ...]:
    """Fields of `GoldenScores` for some rows; what it needs besides them does not grow with the pool."""
    scored = ~np.isnan(one_shot) & ~np.isnan(zero_shot)
    num_anchors = scored.sum(axis=1)
    wins = (scored & (one_shot > zero_shot)).sum(axis=1)
    gain = np.where(scored, one_shot.astype(np.float64) - zero_shot.astype(np.float64), 0.0)
    counted = num_anchors > 0
    divisor = np.where(counted, num_anchors, 1)
    share = np.where(counted, wins / divisor, np.nan)
    mean_gain = np.where(counted, gain.sum(axis=1) / divisor, np.nan)
    return share, standard_error(share, divisor), mean_gain, num_anchors.astype(np.int64)


def standard_error(share: Any, num_anchors: Any) -> Any:
    """Return the standard error of a golden score: `sqrt(p * (1 - p) / m)`, but at least that of Agresti and Coull.

    The plain formula is 0 where all anchors are won, as if any other anchor were sure to be won. Agresti and Coull
    (1998) add two wins and two losses: `sqrt(q * (1 - q) / (m + 4))` with `q = (wins + 2) / (m + 4)`. With the larger
    of both, two standard errors about a golden score cover about 95%, near 0 and 1 as well.

    Args:
        share: golden score p, in [0, 1]; a number or an array.
        num_anchors: m, the anchors that it is a share of.

    Example:
        >>> [round(float(standard_error(p, 100)), 3) for p in (0.5, 0.8, 1.0)]
        [0.05, 0.04, 0.013]
    """
    adjusted = (share * num_anchors + 2) / (num_anchors + 4)
    plain, least = share * (1 - share) / num_anchors, adjusted * (1 - adjusted) / (num_anchors + 4)
    return np.sqrt(np.maximum(plain, least))


def combined_scores(by_set: Sequence[GoldenScores], how: str) -> GoldenScores:
    """Make one score of those by anchor set.

    Args:
        by_set: scores of the same n candidates on each set.
        how: `mean`: golden score and mean gain are means over the sets, each counting alike; `worst`: the golden score
            is that of the set with the lowest one (standard error too), the mean gain is the lowest of all.

    Returns:
        One `GoldenScores` of shape `(n,)`; NaN where a candidate has no scored anchor in one of the sets.

    Example:
        >>> import numpy as np
        >>> one = np.array([1])
        >>> sets = [GoldenScores(np.array([p]), np.array([0.3]), np.array([p]), one) for p in (0.2, 0.6)]
        >>> [round(float(combined_scores(sets, how).golden_score[0]), 2) for how in ("mean", "worst")]
        [0.4, 0.2]
    """
    share, error, gain = (
        np.stack([getattr(scores, name) for scores in by_set])
        for name in ("golden_score", "standard_error", "mean_gain")
    )
    if how == "mean":
        combined = share.mean(axis=0), np.sqrt(np.square(error).sum(axis=0)) / len(by_set), gain.mean(axis=0)
    else:
        assert how == "worst", how
        unscored = np.isnan(share).any(axis=0)
        lowest = np.where(unscored, 0, np.nan_to_num(share).argmin(axis=0))
        columns = np.arange(share.shape[1])
        combined = tuple(  # type: ignore[assignment]
            np.where(unscored, np.nan, values)
            for values in (share[lowest, columns], error[lowest, columns], gain.min(axis=0))
        )
    return GoldenScores(*combined, num_anchors=np.sum([scores.num_anchors for scores in by_set], axis=0))
