"""The standardised gain: gains made comparable between anchors, by the mean and deviation of a fixed random pilot.

A golden score counts wins and throws away how large a gain is. The mean gain keeps it, but an anchor whose gains vary
much has more weight there than ten anchors whose gains vary little. So each gain is measured in deviations of its
anchor::

    z[i, j] = (gain[i, j] - mean[j]) / deviation[j]        gain[i] = mean of z[i, j] over the scored anchors j

Mean and deviation are those of the anchor's gains over a pilot: the rows with the smallest content hashes. They are
not taken over the whole pool, because a race scores only the best rows on all anchors, and because the gain of a row
should change neither with the rows that are raced nor with the best rows that a pool gets later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nuggets_trainer.golden.arrays import Bools, FloatArray, Floats, Ints, row_blocks

# A deviation from 64 rows has a standard error of 9%, so more rows would make the gains of 100 anchors hardly better.
FEWEST_PILOT_ROWS = 64
# The common variance of all anchors counts as much as this many rows of the pilot. On the gains of two real models
# (100 anchors) the deviations from 16, 32 and 64 rows come nearest to those from all rows with 2 to 4, and halves of
# the anchors correlate equally well, within 0.003, with anything from 0 to 16. An anchor that never varies keeps a
# quarter of the common deviation with 64 rows, so it cannot outweigh the others.
PRIOR_ROWS = 4.0


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class AnchorScale:
    """Mean and deviation of each anchor's gain over a pilot.

    Attributes:
        mean: mean gain of each anchor, `(m,)`, nats per token.
        deviation: deviation of each anchor's gain, `(m,)`, nats per token; above 0.
        num_rows: number of rows of the pilot.
    """

    mean: Floats
    deviation: Floats
    num_rows: int

    def of(self, anchors: Ints) -> AnchorScale:
        """Return the scale of some anchors, `(len(anchors),)`; an anchor may be named more than once."""
        return AnchorScale(self.mean[anchors], self.deviation[anchors], self.num_rows)

    def standardise(self, gains: FloatArray) -> Floats:
        """Measure gains in deviations of their anchors, `(n, m)` to `(n, m)`."""
        standardised: Floats = (gains - self.mean) / self.deviation
        return standardised


def gain_pilot(keys: Sequence[str]) -> Ints:
    """Choose the pilot: the rows with the smallest content hashes, sqrt(n) of them and at least 64.

    It is a random sample, because a hash has nothing to do with what a row is worth, and most of it stays when a pool
    grows. Equal rows count once.

    Args:
        keys: content hash of each candidate, `(n,)`.

    Returns:
        Places of the pilot's rows among the candidates, smallest hash first; all different rows of a small pool.

    Example:
        >>> gain_pilot(["c", "a", "b", "a"]).tolist()
        [1, 2, 0]
    """
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    smallest = sorted(first)[: max(math.isqrt(len(first)), FEWEST_PILOT_ROWS)]
    return np.array([first[key] for key in smallest], dtype=np.int64)


def anchor_scale(zero_shot: FloatArray, one_shot: FloatArray) -> AnchorScale:
    """Measure the mean and deviation of each anchor's gain over the rows of a pilot.

    An anchor that hardly varies, or a small pilot, would give a deviation near 0. So each variance is drawn towards
    the mean variance of all anchors: `((p - 1) * variance[j] + 4 * common) / (p - 1 + 4)` for p rows.

    Args:
        zero_shot: log-probs of the anchors, `(m,)`, nats per token; NaN if one was not scored.
        one_shot: log-probs of each pair of a pilot's row and an anchor, `(p, m)`, nats per token; NaN if not scored.

    Returns:
        The scale. An anchor that no row was scored on has the mean and deviation of all the others; where no gain
        varies at all, every deviation is 1.

    Example:
        >>> import numpy as np
        >>> scale = anchor_scale(np.zeros(2), np.array([[0.1, 1.0], [0.3, 3.0], [0.2, 2.0]]))
        >>> scale.mean.round(3).tolist(), scale.deviation.round(3).tolist()
        ([0.2, 2.0], [0.583, 0.819])
    """
    assert one_shot.ndim == 2 and one_shot.shape[1] == zero_shot.shape[0], (one_shot.shape, zero_shot.shape)
    n, m = one_shot.shape
    num_rows, total, squares = np.zeros(m, dtype=np.int64), np.zeros(m), np.zeros(m)
    for block in row_blocks(n):
        gains, scored = gains_of(zero_shot, one_shot[block])
        num_rows += scored.sum(axis=0)
        total = _add_rows(total, gains)
    known = num_rows > 0
    mean = total / np.maximum(num_rows, 1)
    mean[~known] = mean[known].mean() if known.any() else 0.0
    for block in row_blocks(n):
        gains, scored = gains_of(zero_shot, one_shot[block])
        squares = _add_rows(squares, np.where(scored, np.square(gains - mean), 0.0))
    freedom = np.maximum(num_rows - 1, 0)
    common = squares.sum() / max(1, freedom.sum())
    variance = (squares + PRIOR_ROWS * common) / (freedom + PRIOR_ROWS)
    deviation = np.sqrt(variance) if common > 0 else np.ones(m)
    return AnchorScale(mean, deviation, n)


def _add_rows(total: Floats, rows: Floats) -> Floats:
    """Add rows `(n, m)` to sums `(m,)`, one after the other, so that the result is the same for any size of blocks."""
    added: Floats = np.concatenate([total[None], rows]).sum(axis=0)
    return added


def gains_of(zero_shot: FloatArray, one_shot: FloatArray) -> tuple[Floats, Bools]:
    """Return the gains of some rows, 0 where a pair was not scored, and which pairs were scored, each `(n, m)`."""
    scored = ~np.isnan(one_shot) & ~np.isnan(zero_shot)
    gains = np.where(scored, one_shot.astype(np.float64) - zero_shot.astype(np.float64), 0.0)
    return gains, scored


def error_of_mean(values: Floats, scored: Bools) -> Floats:
    """Return the standard error of each row's mean over its scored anchors, as if the anchors were drawn again.

    Args:
        values: one value per pair, `(n, m)`; those of pairs that were not scored are not read.
        scored: pairs that were scored, `(n, m)`.

    Returns:
        The standard deviation of the row's values divided by the root of their number, `(n,)`, in the unit of the
        values; NaN where fewer than two anchors were scored.

    Example:
        >>> import numpy as np
        >>> error_of_mean(np.array([[1.0, 3.0, 9.0]]), np.array([[True, True, False]])).tolist()
        [1.0]
    """
    num_scored = scored.sum(axis=1)
    divisor = np.maximum(num_scored, 1)
    mean = np.where(scored, values, 0.0).sum(axis=1) / divisor
    squares = values - mean[:, None]
    squares[~scored] = 0.0
    np.square(squares, out=squares)  # in place: a block of a large pool takes 52 MB
    error: Floats = np.sqrt(squares.sum(axis=1) / np.maximum(num_scored - 1, 1) / divisor)
    error[num_scored < 2] = np.nan
    return error
