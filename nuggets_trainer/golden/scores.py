"""Golden score, gains and standard errors of each candidate, from log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nuggets_trainer.golden.arrays import FloatArray, Floats, Ints, LogProbs, row_blocks
from nuggets_trainer.golden.gains import AnchorScale, anchor_scale, error_of_mean, gains_of


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class GoldenScores:
    """Scores of n candidates; each array is `(n,)`.

    Attributes:
        golden_score: share of the scored anchors that the candidate wins, in [0, 1]; NaN if none was scored.
        standard_error: standard error of the golden score, see `standard_error`; NaN if no anchor was scored.
        mean_gain: mean gain over the scored anchors, nats per token; NaN if no anchor was scored.
        num_anchors: number of scored anchors.
        mean_gain_error: standard error of the mean gain over the anchors, nats per token; NaN if fewer than two
            anchors were scored.
        gain: standardised gain, see `gains.py`: the mean gain with each anchor's gain measured in deviations of that
            anchor; NaN if no anchor was scored, or if the pilot that gives the deviations was not scored.
        gain_error: standard error of the standardised gain over the anchors, in deviations; NaN if fewer than two
            anchors were scored.
    """

    golden_score: Floats
    standard_error: Floats
    mean_gain: Floats
    num_anchors: Ints
    mean_gain_error: Floats
    gain: Floats
    gain_error: Floats


# Each value with the name of its standard error.
VALUES = (("golden_score", "standard_error"), ("mean_gain", "mean_gain_error"), ("gain", "gain_error"))


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
        gain_mean: mean gain of each anchor over the pilot that `gain` is standardised by, nats per token, `(m,)`; NaN
            if the anchor or the pilot was not scored.
        gain_deviation: deviation of each anchor's gain over the pilot, as in `gains.anchor_scale`, nats per token,
            `(m,)`; NaN where `gain_mean` is.
    """

    pool_index: list[int | None]
    zero_shot: LogProbs
    num_tokens: Ints
    dropped: list[str | None]
    num_cut: int
    set_names: list[str]
    gain_mean: Floats
    gain_deviation: Floats

    def __len__(self) -> int:
        return len(self.dropped)


def golden_scores(zero_shot: FloatArray, one_shot: FloatArray, scale: AnchorScale | None = None) -> GoldenScores:
    """Count, for each candidate, the anchors that it makes more likely (paper, section 3.2), and measure its gains.

    For candidate i and anchor j: `win = one_shot[i, j] > zero_shot[j]`, strictly, and
    `golden_score[i] = wins / scored anchors`. Log-probs are compared in the dtype given (float32 in the store); sums
    are float64. No candidate gets a default score: the score is NaN if no anchor was scored.

    Args:
        zero_shot: mean log-prob of each anchor's completion, `(m,)`, nats per token; NaN if it was not scored.
        one_shot: mean log-prob of each pair of candidate and anchor, `(n, m)`, nats per token; NaN if not scored.
        scale: mean and deviation of each anchor's gain, for the standardised gain; None measures them on all rows
            given. `score_pool` measures them on a pilot (`gains.gain_pilot`).

    Returns:
        The scores of all candidates, arrays of shape `(n,)`.

    Example:
        >>> import numpy as np
        >>> scores = golden_scores(np.array([-2.0, -1.0]), np.array([[-1.5, -1.0], [np.nan, -0.5]]))
        >>> scores.golden_score.tolist(), scores.mean_gain.tolist(), scores.num_anchors.tolist()
        ([0.5, 1.0], [0.25, 0.5], [2, 1])
    """
    assert one_shot.ndim == 2 and one_shot.shape[1] == zero_shot.shape[0], (one_shot.shape, zero_shot.shape)
    if scale is None:
        scale = anchor_scale(zero_shot, one_shot)
    n = len(one_shot)
    columns: dict[str, Any] = {}
    for name in GoldenScores.__dataclass_fields__:
        columns[name] = np.empty(n, dtype=np.int64 if name == "num_anchors" else np.float64)
    scores = GoldenScores(**columns)
    for block in row_blocks(n):
        found = _block_scores(zero_shot, one_shot[block], scale)
        for name, column in columns.items():
            column[block] = getattr(found, name)
    return scores


def _block_scores(zero_shot: FloatArray, one_shot: FloatArray, scale: AnchorScale) -> GoldenScores:
    """Score some candidates; the float64 arrays of this function do not grow with the pool."""
    gains, scored = gains_of(zero_shot, one_shot)
    num_anchors = scored.sum(axis=1)
    wins = (scored & (one_shot > zero_shot)).sum(axis=1)
    has_score = num_anchors > 0
    divisor = np.where(has_score, num_anchors, 1)
    share = np.where(has_score, wins / divisor, np.nan)
    standardised = scale.standardise(gains)
    standardised[~scored] = 0.0
    return GoldenScores(
        golden_score=share,
        standard_error=standard_error(share, divisor),
        mean_gain=np.where(has_score, gains.sum(axis=1) / divisor, np.nan),
        num_anchors=num_anchors.astype(np.int64),
        mean_gain_error=error_of_mean(gains, scored),
        gain=np.where(has_score, standardised.sum(axis=1) / divisor, np.nan),
        gain_error=error_of_mean(standardised, scored),
    )


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
        how: `mean` takes the mean of each value over the sets, each set counting alike; `worst` takes the lowest of
            the sets, of each value by itself, with the standard error that the value has in that set.

    Returns:
        The combined scores, arrays of shape `(n,)`; NaN if a candidate has no scored anchor in one of the sets.

    Example:
        >>> import numpy as np
        >>> sets = [golden_scores(np.zeros(2), np.array([gains])) for gains in ([-1.0, 1.0], [1.0, 1.0])]
        >>> [float(combined_scores(sets, how).golden_score[0]) for how in ("mean", "worst")]
        [0.75, 0.5]
    """
    assert how in ("mean", "worst"), how
    combine = _mean_of_sets if how == "mean" else _worst_of_sets
    columns = {"num_anchors": np.sum([scores.num_anchors for scores in by_set], axis=0)}
    for value, error in VALUES:
        values = np.stack([getattr(scores, value) for scores in by_set])
        errors = np.stack([getattr(scores, error) for scores in by_set])
        columns[value], columns[error] = combine(values, errors)
    return GoldenScores(**columns)


def _mean_of_sets(values: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Return the mean over the sets of each row's values, and its standard error; `(s, n)` to `(n,)`."""
    return values.mean(axis=0), np.sqrt(np.square(errors).sum(axis=0)) / len(values)


def _worst_of_sets(values: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Return the lowest of each row's values over the sets, and its standard error; `(s, n)` to `(n,)`."""
    unscored = np.isnan(values).any(axis=0)
    lowest = np.where(unscored, 0, np.nan_to_num(values).argmin(axis=0))
    rows = np.arange(values.shape[1])
    value = np.where(unscored, np.nan, values[lowest, rows])
    return value, np.where(unscored, np.nan, errors[lowest, rows])
