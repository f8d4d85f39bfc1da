"""What the results of a race say so far: wins, anchors left, and which candidates may still be selected."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Floats, Ints, LogProbs, row_blocks


class Standings:
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
        rule: the selection rule.
        zero_shot: log-probs of the anchors, `(m,)`.
        one_shot: log-probs behind each candidate, `(n, m)`, NaN where a pair is not scored; rows of candidates that
            are `complete` hold all their anchors.
        pending: pairs that may still be scored, `(n, m)`.
        num_anchors: anchors that each candidate is scored on at most, `(n,)`.
        num_pending: how many of them are left, `(n,)`.
        wins: anchors won, `(n,)`.
        dropped: candidates without an anchor, or with a log-prob that is not finite, `(n,)`.
        copies: number of pool rows that each candidate stands for, `(n,)`.
        num_candidates: pool rows that are not dropped.
    """

    def __init__(
        self,
        rule: tuple[str, float],
        zero_shot: LogProbs,
        excluded: Bools,
        copies: Ints | None = None,
        full: Callable[..., Any] = np.full,
    ) -> None:
        n, m = excluded.shape
        assert zero_shot.shape == (m,), (zero_shot.shape, excluded.shape)
        self.rule = rule
        self.zero_shot = zero_shot
        self.one_shot: LogProbs = full((n, m), np.nan, np.float32)
        self.pending: Bools = full((n, m), False, np.bool_)
        for block in row_blocks(n):
            self.pending[block] = np.isfinite(zero_shot) & ~excluded[block]
        self.num_anchors: Ints = self.pending.sum(axis=1)
        self.num_pending = self.num_anchors.copy()
        self.wins = np.zeros(n, dtype=np.int64)
        self.dropped: Bools = self.num_anchors == 0
        self.copies = np.ones(n, dtype=np.int64) if copies is None else copies
        self.num_candidates = int(self.copies[~self.dropped].sum())
        self._top: list[float] = []  # heap of the k best golden scores

    def __len__(self) -> int:
        return len(self.dropped)

    @property
    def num_kept(self) -> int:
        """Rows that the rule keeps, as far as known; 1 for a threshold."""
        name, value = self.rule
        if name == "threshold":
            return 1
        if name == "top_k":
            return int(value)
        return max(1, round(value * self.num_candidates))

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
    def num_scored(self) -> Ints:
        """Anchors scored, `(n,)`."""
        scored: Ints = self.num_anchors - self.num_pending
        return scored

    @property
    def complete(self) -> Bools:
        """Candidates that are scored on all their anchors, `(n,)`."""
        complete: Bools = (self.num_pending == 0) & ~self.dropped
        return complete

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
        assert self.pending[rows, anchors].all(), "a pair has two results"
        self.one_shot[rows, anchors] = log_probs
        self.pending[rows, anchors] = False
        np.subtract.at(self.num_pending, rows, 1)
        np.add.at(self.wins, rows, log_probs > self.zero_shot[anchors])
        bad = np.unique(rows[~np.isfinite(log_probs)])
        newly_dropped = bad[~self.dropped[bad]]
        self.num_candidates -= int(self.copies[newly_dropped].sum())
        self.dropped[newly_dropped] = True
        self._raise_bound(np.unique(rows))

    def _raise_bound(self, rows: Ints) -> None:
        """Count those of these candidates that are complete now among the k best."""
        done = rows[(self.num_pending[rows] == 0) & ~self.dropped[rows]]
        for score in np.repeat(self.upper_bound(done), self.copies[done]).tolist():
            heapq.heappush(self._top, score)
        while len(self._top) > self.num_kept:
            heapq.heappop(self._top)
