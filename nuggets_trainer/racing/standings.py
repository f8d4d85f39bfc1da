"""What the results of a race say so far: wins, anchors left, and which candidates may still be selected."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Floats, Ints, LogProbs
from nuggets_trainer.racing.scored_pairs import ScoredPairs


class Standings(ScoredPairs):
    """State of a race: the log-probs so far, and which candidates they rule out.

    Let `upper_bound[i] = (wins + anchors left) / anchors` of candidate i, and let `bound` be the k-th best golden
    score among the complete candidates. Candidate i is eliminated while `upper_bound[i] < bound`. At
    `upper_bound[i] == bound` it stays, because its mean gain, which breaks ties, is still open; so all ties at the cut
    are complete in the end, and their number is exact too.

    With a threshold t, candidate i is eliminated when `upper_bound[i] <= t` and a complete candidate is above
    `upper_bound[i]`. If no candidate passes t, the best golden score of the pool is therefore known in the end, and
    the error of `select_golden_set` can name it.

    The bound only rises: a row that is dropped on the way makes k smaller or leaves it as it is.

    Args:
        rule: name and value of the selection rule, see `select_golden_set`.
        zero_shot: log-probs of the m anchors, `(m,)`, nats per token; an anchor that is not finite is never scored.
        excluded: pairs that are never scored, `(n, m)`, such as a row with itself.
        copies: number of pool rows that each candidate stands for, `(n,)`; None is 1 for each.
        full: function that makes the `(n, m)` arrays, called like `np.full`; it may put them into files.

    Attributes:
        wins: anchors won, `(n,)`.

    The other attributes are those of `ScoredPairs`.
    """

    def __init__(
        self,
        rule: tuple[str, float],
        zero_shot: LogProbs,
        excluded: Bools,
        copies: Ints | None = None,
        full: Callable[..., Any] = np.full,
    ) -> None:
        super().__init__(rule, zero_shot, excluded, copies, full)
        self.wins = np.zeros(len(self), dtype=np.int64)
        self._top: list[float] = []  # heap of the k best golden scores

    @property
    def bound(self) -> float:
        """The k-th best golden score of the complete candidates; -inf if there are fewer."""
        return float(self._top[0]) if len(self._top) == self.num_kept else -math.inf

    @property
    def cut(self) -> float | None:
        """Golden score of the last row that is kept so far; None if there are too few complete candidates."""
        name, value = self.rule
        if name != "threshold":
            return self.bound if math.isfinite(self.bound) else None
        scores = self.upper_bound()[self.complete]
        return min(scores[scores > value].tolist(), default=None)

    @property
    def best(self) -> float | None:
        """Best golden score of a complete candidate; None before there is one."""
        complete = self.complete
        return float(self.upper_bound()[complete].max()) if complete.any() else None

    @property
    def eliminated(self) -> Bools:
        """Candidates that cannot be selected and are not complete, `(n,)`."""
        out: Bools = (self.num_pending > 0) & ~self.dropped & ~self.undecided()
        return out

    @property
    def num_eliminated(self) -> int:
        """Rows of the pool that are eliminated; equal rows count each."""
        return int(self.copies[self.eliminated].sum())

    def undecided(self, rows: Ints | None = None) -> Bools:
        """Return which candidates may still be selected and have anchors left.

        Args:
            rows: candidates to look at, `(r,)`; None looks at all.

        Returns:
            One value per candidate, `(r,)` or `(n,)`.
        """
        if rows is None:
            rows = np.arange(len(self))
        highest = self.upper_bound(rows)
        out = highest < self.bound
        name, value = self.rule
        if name == "threshold":
            out &= highest <= value
        undecided: Bools = (self.num_pending[rows] > 0) & ~self.dropped[rows] & ~out
        return undecided

    def upper_bound(self, rows: Ints | None = None) -> Floats:
        """Return the golden score that each candidate has if it wins all anchors left; exact if it is complete.

        Args:
            rows: candidates to look at, `(r,)`; None looks at all.

        Returns:
            Scores in [0, 1], `(r,)` or `(n,)`.
        """
        if rows is None:
            rows = np.arange(len(self))
        # The same division as in `golden_scores`. Rounding is monotone, so no candidate can end above it.
        highest: Floats = (self.wins[rows] + self.num_pending[rows]) / np.maximum(self.num_anchors[rows], 1)
        return highest

    def update(self, rows: Ints, anchors: Ints, log_probs: LogProbs) -> None:
        """Take in the log-probs of some pairs, given by candidate and anchor, each array `(number of pairs,)`."""
        super().update(rows, anchors, log_probs)
        np.add.at(self.wins, rows, log_probs > self.zero_shot[anchors])
        self._raise_bound(np.unique(rows))

    def _raise_bound(self, rows: Ints) -> None:
        """Count those of these candidates that are complete now among the k best."""
        done = rows[(self.num_pending[rows] == 0) & ~self.dropped[rows]]
        for score in np.repeat(self.upper_bound(done), self.copies[done]).tolist():
            heapq.heappush(self._top, score)
        while len(self._top) > self.num_kept:
            heapq.heappop(self._top)
