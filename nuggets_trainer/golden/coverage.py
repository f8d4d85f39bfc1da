"""Choose rows that help all anchors between them, not each the most by itself. Pure numpy; knows no pool and no rule.

Ranking takes the best candidates one by one, and they may all help the same anchors. Here a set S of rows is worth::

    F(S) = (1 - w) * sum_{i in S} quality[i] / (the same of the k best)
         + w * mean_j sqrt( sum_{i in S} max(gain[i, j], 0) / (the same of all rows) )

The square root has diminishing returns: an anchor that the set helps already counts less, at any size of the set (a
maximum over the set, facility location, would be saturated after about as many rows as there are anchors). F is
monotone and submodular, so that the greedy set has at least 1 - 1/e of the best possible value (Nemhauser, Wolsey and
Fisher, 1978). The lazy form (Minoux, 1978) finds the same set for a part of the evaluations.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]
BLOCK = 64  # rows whose worth is computed at a time


class Objective:
    """F of the module's docstring, of a set that grows row by row.

    Args:
        gains: one-shot minus zero-shot log-prob, `(n, m)`, nats per token; NaN counts as no gain.
        quality: what a row is worth by itself, 0 or more, `(n,)`: its golden score.
        k: rows that the set will have.
        weight: w, in [0, 1].
    """

    def __init__(self, gains: Floats, quality: Floats, k: int, weight: float) -> None:
        # float32, as log-probs are; NaN is no gain: maximum would keep it, fmax does not.
        self._gains = np.fmax(gains, 0).astype(np.float32, copy=False)
        total = self._gains.sum(axis=0, dtype=np.float64)
        self._reached = np.zeros_like(total)
        self._per_anchor = np.where(total > 0, 1 / np.sqrt(np.where(total > 0, total, 1)), 0) * (weight / len(total))
        best = np.partition(quality, -k)[-k:].sum()
        self._quality = quality * ((1 - weight) / best if best > 0 else 0)

    def worth(self, rows: Indices) -> npt.NDArray[np.float64]:
        """Return what each of these rows would add to F, `(len(rows),)`."""
        grown = np.sqrt(self._reached + self._gains[rows]) - np.sqrt(self._reached)
        worth: npt.NDArray[np.float64] = self._quality[rows] + (grown * self._per_anchor).sum(axis=1)
        return worth

    def add(self, row: int) -> None:
        """Put a row into the set."""
        self._reached += self._gains[row]


def cover(
    gains: Floats, quality: Floats, k: int, weight: float, admit: Callable[[int], bool] = lambda row: True
) -> Indices:
    """Choose k rows greedily: each time the one that adds most to F, the first of equals.

    Args:
        gains: as for `Objective`, `(n, m)`. Give rows in rank order: the first of two equal ones is chosen.
        quality: `(n,)`.
        k: rows to choose, at most n.
        weight: w, in [0, 1]; 0 is a ranking by `quality`.
        admit: asked once of a row whose turn it is; a row that is not admitted is out. (With quotas of groups the
            bound is 1/2 of the best.)

    Returns:
        Their positions among the n rows, in the order chosen, `(k,)`; fewer if too many were not admitted.

    Example:
        >>> import numpy as np
        >>> gains = np.array([[1.0, 0.0], [0.9, 0.0], [0.0, 0.5]])
        >>> cover(gains, np.array([0.5, 0.5, 0.5]), k=2, weight=0.5).tolist()
        [2, 0]
    """
    n = len(quality)
    assert gains.shape[0] == n and 0 <= k <= n, (gains.shape, n, k)
    if k == 0:
        return np.empty(0, dtype=np.int64)
    objective = Objective(gains, quality, k, weight)
    # What a row adds only falls as the set grows, so what it added last is a bound: most rows need no second look.
    bounds = np.concatenate([objective.worth(np.arange(a, min(a + BLOCK, n))) for a in range(0, n, BLOCK)])
    heap = [(-bound, row) for row, bound in enumerate(bounds.tolist())]
    heapq.heapify(heap)
    chosen: list[int] = []
    size = 1  # of a look; doubled while bounds turn out too high
    while len(chosen) < k and heap:
        looked_at = [heapq.heappop(heap)[1] for _ in range(min(size, len(heap)))]
        fresh = sorted(zip((-objective.worth(np.array(looked_at))).tolist(), looked_at, strict=True))
        if heap and heap[0] < fresh[0]:
            size = min(2 * size, BLOCK)
        else:
            row = fresh.pop(0)[1]
            if admit(row):
                objective.add(row)
                chosen.append(row)
            size = 1
        for entry in fresh:
            heapq.heappush(heap, entry)
    return np.array(chosen, dtype=np.int64)


@dataclass(frozen=True)
class Spread:
    """How the gains of a set are spread over the anchors.

    Attributes:
        coverage: the second term of F with w = 1, in [0, 1].
        anchors_covered: share of the anchors that get at least the average row's gain from the set, per row.
        redundancy: mean cosine between the gains of two rows of the set, in [-1, 1]; NaN for a single row.
    """

    coverage: float
    anchors_covered: float
    redundancy: float


def spread(gains: Floats, rows: Indices) -> Spread:
    """Say how a set's gains are spread, for one set or to hold two against each other.

    Args:
        gains: `(n, m)`, nats per token, of all candidates; NaN counts as no gain.
        rows: the set, positions among the n.

    Example:
        >>> import numpy as np
        >>> gains = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> [round(x, 2) for x in vars(spread(gains, np.array([0, 1]))).values()]
        [0.5, 0.5, 1.0]
    """
    helped = np.fmax(gains, 0)
    total, reached = helped.sum(axis=0, dtype=np.float64), helped[rows].sum(axis=0, dtype=np.float64)
    share = np.divide(reached, total, out=np.zeros_like(total), where=total > 0)
    own = np.nan_to_num(gains[rows].astype(np.float64))
    length = np.linalg.norm(own, axis=1, keepdims=True)
    direction = np.divide(own, length, out=np.zeros_like(own), where=length > 0)
    k = len(rows)
    squared = float(np.square(direction.sum(axis=0)).sum())  # the sum over all pairs, each row with itself included
    redundancy = (squared - float((length > 0).sum())) / (k * (k - 1)) if k > 1 else float("nan")
    return Spread(
        coverage=float(np.sqrt(share).mean()),
        anchors_covered=float((share >= k / len(gains)).mean()),
        redundancy=redundancy,
    )
