"""The pairs of a race: what is scored, what may still be scored, and which candidates are dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Ints, LogProbs, row_blocks

Result = tuple[int, Ints, LogProbs]  # a candidate, anchors that it is scored on, and the log-probs


def joined(results: Sequence[Result]) -> tuple[Ints, Ints, LogProbs]:
    """Return candidate, anchor and log-prob of each pair, `(number of pairs,)` each."""
    rows = np.repeat([i for i, _, _ in results], [len(anchors) for _, anchors, _ in results])
    anchors = np.concatenate([anchors for _, anchors, _ in results])
    log_probs = np.concatenate([log_probs for _, _, log_probs in results])
    return rows, anchors, log_probs


class ScoredPairs:
    """The log-probs that a race has so far.

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
        self.dropped: Bools = self.num_anchors == 0
        self.copies = np.ones(n, dtype=np.int64) if copies is None else copies
        self.num_candidates = int(self.copies[~self.dropped].sum())

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
    def num_scored(self) -> Ints:
        """Anchors scored, `(n,)`."""
        scored: Ints = self.num_anchors - self.num_pending
        return scored

    @property
    def complete(self) -> Bools:
        """Candidates that are scored on all their anchors, `(n,)`."""
        complete: Bools = (self.num_pending == 0) & ~self.dropped
        return complete

    def update(self, rows: Ints, anchors: Ints, log_probs: LogProbs) -> None:
        """Take in the log-probs of some pairs, given by candidate and anchor, each array `(number of pairs,)`."""
        assert self.pending[rows, anchors].all(), "a pair has two results"
        self.one_shot[rows, anchors] = log_probs
        self.pending[rows, anchors] = False
        np.subtract.at(self.num_pending, rows, 1)
        bad = np.unique(rows[~np.isfinite(log_probs)])
        newly_dropped = bad[~self.dropped[bad]]
        self.num_candidates -= int(self.copies[newly_dropped].sum())
        self.dropped[newly_dropped] = True
