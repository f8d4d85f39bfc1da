"""A choice of rows that together help all anchors, instead of the best rows one by one.

A ranking takes the best candidates one by one, and they may all help the same anchors. Here a set S of rows is worth::

    F(S) = (1 - w) * sum_{i in S} quality[i] / (the same sum over the k best rows)
         + w * mean_j sqrt( sum_{i in S} max(gain[i, j], 0) / (the same sum over all rows) )

The square root has diminishing returns: an anchor that the set already helps counts less, whatever the size of the
set. (With the maximum over the set instead, facility location, F would stop growing after about as many rows as there
are anchors.) F is monotone and submodular, so the greedy set has at least 1 - 1/e of the best possible value
(Nemhauser, Wolsey and Fisher, 1978). The lazy form (Minoux, 1978) finds the same set with fewer evaluations.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nuggets_trainer.golden.arrays import FloatArray, Floats, Ints

BLOCK = 64  # rows whose worth is computed at a time


class Objective:
    """The function F of the module's docstring, for a set that grows row by row.

    Args:
        gains: one-shot minus zero-shot log-prob, `(n, m)`, nats per token; NaN counts as no gain.
        quality: worth of each row by itself, its golden score, `(n,)`, 0 or more.
        k: number of rows that the set will have.
        weight: the weight w of coverage, in [0, 1].
    """

    def __init__(self, gains: FloatArray, quality: FloatArray, k: int, weight: float) -> None:
        # float32, as log-probs are. `fmax` turns NaN into 0; `maximum` would keep it.
        self._gains = np.fmax(gains, 0).astype(np.float32, copy=False)
        total = self._gains.sum(axis=0, dtype=np.float64)  # gain of each anchor from all rows
        helped = total > 0
        self._reached = np.zeros_like(total)  # gain of each anchor from the set
        self._per_anchor = np.where(helped, 1 / np.sqrt(np.where(helped, total, 1)), 0) * (weight / len(total))
        best = np.partition(quality, -k)[-k:].sum()
        scale = 0.0
        if best > 0:
            scale = (1 - weight) / best
        self._quality = quality * scale

    def worth(self, rows: Ints) -> Floats:
        """Return how much each of these rows would add to F, `(len(rows),)`."""
        grown = np.sqrt(self._reached + self._gains[rows]) - np.sqrt(self._reached)
        worth: Floats = self._quality[rows] + (grown * self._per_anchor).sum(axis=1)
        return worth

    def add(self, row: int) -> None:
        """Put a row into the set."""
        self._reached += self._gains[row]


def cover(
    gains: FloatArray, quality: FloatArray, k: int, weight: float, admit: Callable[[int], bool] = lambda row: True
) -> Ints:
    """Choose k rows greedily: each time the row that adds most to F, and of equal rows the first.

    Args:
        gains: one-shot minus zero-shot log-prob, `(n, m)`, nats per token; NaN counts as no gain. Give the rows in
            rank order, because the first of two equal rows is chosen.
        quality: worth of each row by itself, its golden score, `(n,)`, 0 or more.
        k: number of rows to choose, at most n.
        weight: the weight w of coverage, in [0, 1]; 0 is a ranking by `quality`.
        admit: function that is called once with each row to be chosen; the row is left out if it returns False. (With
            quotas of groups the greedy set has at least 1/2 of the best value.)

    Returns:
        Positions among the n rows, in the order chosen, `(k,)`; fewer if too many rows were left out.

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
    # What a row adds only falls as the set grows, so what it would have added before is an upper bound: most rows
    # need no second look. The heap holds (-bound, row), so the first of equal rows comes first.
    heap: list[tuple[float, int]] = []
    for start in range(0, n, BLOCK):
        rows = np.arange(start, min(start + BLOCK, n))
        heap += zip((-objective.worth(rows)).tolist(), rows.tolist(), strict=True)
    heapq.heapify(heap)
    chosen: list[int] = []
    num_looked_at = 1  # doubled while bounds turn out too high
    while len(chosen) < k and heap:
        looked_at = [heapq.heappop(heap)[1] for _ in range(min(num_looked_at, len(heap)))]
        worth = objective.worth(np.array(looked_at))
        fresh = sorted(zip((-worth).tolist(), looked_at, strict=True))
        if heap and heap[0] < fresh[0]:
            num_looked_at = min(2 * num_looked_at, BLOCK)
        else:
            row = fresh.pop(0)[1]
            if admit(row):
                objective.add(row)
                chosen.append(row)
            num_looked_at = 1
        for entry in fresh:
            heapq.heappush(heap, entry)
    return np.array(chosen, dtype=np.int64)


@dataclass(frozen=True)
class GainSpread:
    """Figures on how the gains of a set are spread over the anchors.

    Attributes:
        coverage: value of F with w = 1, in [0, 1].
        anchors_covered: share of the anchors that gain at least as much per row of the set as per row of the pool.
        redundancy: mean cosine between the gains of two rows of the set, in [-1, 1]; NaN for a single row.
    """

    coverage: float
    anchors_covered: float
    redundancy: float


def gain_spread(gains: FloatArray, rows: Ints) -> GainSpread:
    """Measure how the gains of a set are spread over the anchors.

    Args:
        gains: gains of all candidates, `(n, m)`, nats per token; NaN counts as no gain.
        rows: the set, as positions among the n candidates, `(k,)`.

    Example:
        >>> import numpy as np
        >>> gains = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> [round(x, 2) for x in vars(gain_spread(gains, np.array([0, 1]))).values()]
        [0.5, 0.5, 1.0]
    """
    helped = np.fmax(gains, 0)
    total = helped.sum(axis=0, dtype=np.float64)
    reached = helped[rows].sum(axis=0, dtype=np.float64)
    share = np.divide(reached, total, out=np.zeros_like(total), where=total > 0)
    own = np.nan_to_num(gains[rows].astype(np.float64))
    length = np.linalg.norm(own, axis=1, keepdims=True)
    direction = np.divide(own, length, out=np.zeros_like(own), where=length > 0)
    k = len(rows)
    # The squared length of the sum is the sum of the cosines over all pairs, each row with itself included.
    cosines = float(np.square(direction.sum(axis=0)).sum())
    with_itself = float((length > 0).sum())
    redundancy = float("nan")
    if k > 1:
        redundancy = (cosines - with_itself) / (k * (k - 1))
    return GainSpread(
        coverage=float(np.sqrt(share).mean()),
        anchors_covered=float((share >= k / len(gains)).mean()),
        redundancy=redundancy,
    )
