"""Race: which pairs to score next, so that the golden set is that of scoring all. Pure numpy; knows no model.

A candidate is *eliminated* when it could not be selected even if it won every anchor that it has left. How soon that
happens depends on the order of the anchors: those that candidates lose, for few tokens, come first. The order is
learned on a *pilot*, a random sample of candidates that is scored on all anchors; a bad order costs tokens, never
correctness. Then *waves* follow, the most promising candidates first, so that the bound rises early.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.pilot import pilot_size, shrunk_rate, upper_quantile

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
LogProbs = npt.NDArray[np.float32]

# Measured with recipes/bench/race.py; none of them can change the golden set.
GOOD_SHARE = 0.5  # best share of the pilot, on which the order is learned; 0.75 costs the same, 0.1 1-2 points more
PRIOR_LOSSES = 4.0  # losses seen before a candidate's own loss rate counts as much as the pool's
AIM = 0.9  # losses of a visit, by expectation, of those that eliminate; 0.8 and 1 cost 1 point more
LAST_VISIT = 0.5  # what is left is scored at once when it is cheaper than this share of the prefix
RANKINGS = 16  # candidates are ranked anew after 1/16 of them; 4 costs 2 points more tokens, 1 costs 7
BLOCK = 64  # candidates planned together
ROWS_AT_ONCE = 65536  # of an array that may be in a file


class Race:
    """Elimination that keeps the exact golden set.

    Let `best[i] = (wins + anchors left) / anchors` of candidate i and `bound` the k-th best golden score among the
    complete candidates. Candidate i is eliminated while `best[i] < bound`. At `best[i] == bound` it stays, since its
    mean gain, which breaks ties, is open; so all ties at the cut are complete, and their number is exact too. With a
    threshold t it is eliminated when `best[i] <= t` and a complete candidate is above `best[i]`: if none passes t, the
    best golden score of the pool is known in the end, and `select_golden_set` can name it.

    The bound only rises: rows that are dropped on the way lower k or leave it. In one corner, scoring everything finds
    log-probs that are not finite on pairs that a race never scores: with `top_fraction` k may then be smaller, and the
    golden set is the first rows of the race's.

    The schedule depends on the arguments and the results alone, not on ranks or the order of results. So a job that
    was interrupted replays it: what is stored answers at once, and the race goes on where it was.

    Args:
        rule: name and value of the selection rule, see `select_golden_set`.
        zero_shot: log-probs of the m anchors, `(m,)`, nats per token; an anchor that is not finite is never scored.
        excluded: pairs that are never scored, `(n, m)`, such as a row with itself.
        prefix_tokens: what one visit costs before the first anchor, `(n,)`.
        anchor_tokens: what each anchor costs behind any candidate, `(m,)`, at least 1.
        tokens_per_wave: forward tokens of one wave, about: a wave ends with the group that reaches it.
        copies: how many rows of the pool each candidate stands for, `(n,)`; None is 1 for each.
        pilot: candidates to score on all anchors first; None draws `pilot_size(n)` of them.
        seed: of the pilot.
        full: makes the `(n, m)` arrays, as `np.full` does; another may put them in a file.

    Attributes:
        one_shot: the log-probs; rows of candidates that are `complete` hold all their anchors.
        wins: anchors won, `(n,)`.
        num_anchors: anchors to be scored at most, `(n,)`.
        dropped: candidates without an anchor, or with a log-prob that is not finite, `(n,)`.
        pilot: its candidates, `(p,)`.

    Example:
        >>> import numpy as np
        >>> log_probs = np.full((4, 9), -3, dtype=np.float32)  # zero-shot -2: all lost,
        >>> log_probs[1] = -1  # but candidate 1 wins
        >>> zero_shot, none = np.full(9, -2, dtype=np.float32), np.zeros((4, 9), dtype=bool)
        >>> tokens = np.ones(9, dtype=np.int64)
        >>> race = Race(("top_k", 1), zero_shot, none, tokens[:4], tokens, tokens_per_wave=9)
        >>> while wave := race.next_wave():
        ...     race.update([(i, anchors, log_probs[i, anchors]) for i, anchors in wave])
        >>> race.bound, bool(race.complete[1]), bool(race.eliminated.any())
        (1.0, True, True)
    """

    def __init__(
        self,
        rule: tuple[str, float],
        zero_shot: LogProbs,
        excluded: Bools,
        prefix_tokens: Ints,
        anchor_tokens: Ints,
        tokens_per_wave: int,
        *,
        copies: Ints | None = None,
        pilot: Ints | None = None,
        seed: int = 0,
        full: Callable[..., Any] = np.full,
    ) -> None:
        n, m = excluded.shape
        assert zero_shot.shape == anchor_tokens.shape == (m,) and prefix_tokens.shape == (n,)
        self.zero_shot, self.one_shot = zero_shot, full((n, m), np.nan, np.float32)
        self._pending: Bools = full((n, m), False, np.bool_)
        for start in range(0, n, ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            self._pending[block] = np.isfinite(zero_shot) & ~excluded[block]
        self.num_anchors: Ints = self._pending.sum(axis=1)
        self._num_pending = self.num_anchors.copy()
        self.dropped: Bools = self.num_anchors == 0
        self.wins = np.zeros(n, dtype=np.int64)
        self._rule, self._tokens_per_wave = rule, tokens_per_wave
        self._prefix_tokens, self._anchor_tokens = prefix_tokens, anchor_tokens
        self._copies = np.ones(n, dtype=np.int64) if copies is None else copies
        self._num_candidates = int(self._copies[~self.dropped].sum())
        self._top: list[float] = []  # heap of the k best golden scores
        drawn = np.random.default_rng(seed).permutation(n)[: pilot_size(n)]
        self.pilot: Ints = np.sort(drawn if pilot is None else pilot)
        self._queue, self._position, self._rank_again_at = self.pilot, 0, len(self.pilot)
        self._expected_bound = -np.inf
        self._learned = False
        self._outstanding = 0

    @property
    def num_kept(self) -> int:
        """How many rows the rule keeps, as far as known; 1 for a threshold."""
        name, value = self._rule
        if name == "threshold":
            return 1
        return int(value) if name == "top_k" else max(1, round(value * self._num_candidates))

    @property
    def bound(self) -> float:
        """The k-th best golden score of the complete candidates; -inf when there are fewer."""
        return float(self._top[0]) if len(self._top) == self.num_kept else -np.inf

    @property
    def num_scored(self) -> Ints:
        """Anchors scored, `(n,)`."""
        scored: Ints = self.num_anchors - self._num_pending
        return scored

    @property
    def complete(self) -> Bools:
        """Candidates with all their anchors, `(n,)`."""
        complete: Bools = (self._num_pending == 0) & ~self.dropped
        return complete

    @property
    def eliminated(self) -> Bools:
        """Candidates that cannot be selected and are not complete, `(n,)`."""
        rows = np.arange(len(self.dropped))
        out: Bools = (self._num_pending > 0) & ~self.dropped & ~self._alive(rows)
        return out

    def upper_bound(self, rows: Ints | None = None) -> Floats:
        """Golden score if all that is left were won, `(n,)` or one per row; exact where complete."""
        rows = np.arange(len(self.dropped)) if rows is None else rows
        # The same division as in golden_scores: rounding is monotone, so no candidate can end above it.
        best: Floats = (self.wins[rows] + self._num_pending[rows]) / np.maximum(self.num_anchors[rows], 1)
        return best

    def next_wave(self) -> list[tuple[int, Ints]]:
        """Candidates, and the anchors to score each on; empty when all are complete, eliminated or dropped."""
        assert self._outstanding == 0, f"{self._outstanding} pairs of the last wave have no result"
        wave: list[tuple[int, Ints]] = []
        tokens = 0
        while tokens < self._tokens_per_wave:
            if self._position >= self._rank_again_at and not wave:
                self._rank()
            block = self._queue[self._position : self._position + BLOCK]
            if len(block) == 0:
                break
            places = np.flatnonzero(self._alive(block))
            rows = block[places]
            chosen = self._choose_anchors(rows)
            total = tokens + np.cumsum(self._prefix_tokens[rows] + chosen @ self._anchor_tokens)
            size = min(len(rows), int(np.searchsorted(total, self._tokens_per_wave)) + 1)
            self._position += len(block) if size == len(rows) else int(places[size])
            wave += [(int(i), np.flatnonzero(row)) for i, row in zip(rows[:size], chosen[:size], strict=True)]
            tokens = int(total[size - 1]) if size else tokens
        self._outstanding = sum(len(anchors) for _, anchors in wave)
        return wave

    def update(self, results: Sequence[tuple[int, Ints, LogProbs]]) -> None:
        """Take in candidates, anchors and their log-probs, in any order and number of calls."""
        if not results:
            return
        rows = np.repeat([i for i, _, _ in results], [len(anchors) for _, anchors, _ in results])
        anchors = np.concatenate([anchors for _, anchors, _ in results])
        log_probs = np.concatenate([log_probs for *_, log_probs in results])
        assert self._pending[rows, anchors].all(), "a pair has two results"
        self._outstanding -= len(rows)
        self.one_shot[rows, anchors] = log_probs
        self._pending[rows, anchors] = False
        np.subtract.at(self._num_pending, rows, 1)
        np.add.at(self.wins, rows, log_probs > self.zero_shot[anchors])
        if self._learned:
            np.subtract.at(self._losses_ahead, rows, self._loss_rate[anchors])
        bad = np.unique(rows[~np.isfinite(log_probs)])
        self._num_candidates -= int(self._copies[bad[~self.dropped[bad]]].sum())
        self.dropped[bad] = True
        self._add_complete(np.unique(rows))

    def _add_complete(self, rows: Ints) -> None:
        done = rows[(self._num_pending[rows] == 0) & ~self.dropped[rows]]
        for score in np.repeat(self.upper_bound(done), self._copies[done]).tolist():
            heapq.heappush(self._top, score)
        while len(self._top) > self.num_kept:
            heapq.heappop(self._top)

    def _alive(self, rows: Ints) -> Bools:
        """Which of these rows may still be selected and have anchors left."""
        best = self.upper_bound(rows)
        out = best < self.bound
        if self._rule[0] == "threshold":
            out &= best <= self._rule[1]
        alive: Bools = (self._num_pending[rows] > 0) & ~self.dropped[rows] & ~out
        return alive

    def _choose_anchors(self, rows: Ints) -> Bools:
        """Anchors of the next visit, `(len(rows), m)`: by expectation, just enough losses to be eliminated."""
        pending = self._pending[rows]
        if not self._learned:
            return pending
        ordered = pending[:, self._order]
        losses = np.cumsum(ordered * self._loss_rate[self._order], axis=1) * self._own_rate(rows)[:, None]
        before = np.concatenate([np.zeros((len(rows), 1)), losses[:, :-1]], axis=1)
        cut = max(self.bound, self._expected_bound)
        needed = np.floor((self.upper_bound(rows) - cut) * self.num_anchors[rows]) + 1
        taken = ordered & (before < np.maximum(AIM * needed, 1)[:, None])
        rest = (ordered & ~taken) @ self._anchor_tokens[self._order]
        taken |= ordered & (rest <= LAST_VISIT * self._prefix_tokens[rows])[:, None]
        chosen = np.empty_like(pending)
        chosen[:, self._order] = taken
        return chosen

    def _own_rate(self, rows: Ints) -> Floats:
        """Losses of each row, relative to those the pilot makes one expect on the same anchors."""
        expected = self._losses_in_all[rows] - self._losses_ahead[rows]
        rate: Floats = (self.num_scored[rows] - self.wins[rows] + PRIOR_LOSSES) / (expected + PRIOR_LOSSES)
        return rate

    def _predict(self, rows: Ints) -> Floats:
        """Golden score of each row, by expectation."""
        losses = np.minimum(self._own_rate(rows) * self._losses_ahead[rows], self._num_pending[rows])
        score: Floats = self.upper_bound(rows) - losses / np.maximum(self.num_anchors[rows], 1)
        return score

    def _rank(self) -> None:
        """Fill the queue with the most promising candidates.

        Those that cannot reach the bound expected in the end wait: most are eliminated without another visit.
        """
        if not self._learned:
            self._learn()
        alive = np.flatnonzero(self._alive(np.arange(len(self.dropped))))
        best = self.upper_bound(alive)
        if len(alive) and best.max() < self._expected_bound:
            self._expected_bound = self._lower_bound(float(best.max()))
        alive = alive[best >= self._expected_bound]
        self._queue = alive[np.argsort(-self._predict(alive), kind="stable")]
        self._position, self._rank_again_at = 0, min(len(alive), max(BLOCK, len(alive) // RANKINGS))

    def _lower_bound(self, highest: float) -> float:
        """Expect, instead of a bound that nobody left can reach, the k-th best prediction."""
        predicted = np.repeat(self._predict(np.flatnonzero(~self.dropped)), self._copies[~self.dropped])
        k = min(self.num_kept, len(predicted))
        return min(highest, float(np.partition(predicted, -k)[-k]))

    def _learn(self) -> None:
        """From the pilot: how often each anchor is lost, the order of the anchors, and the bound to expect."""
        rows = self.pilot[~self.dropped[self.pilot]]
        scored = ~np.isnan(self.one_shot[rows])
        lost = scored & ~(self.one_shot[rows] > self.zero_shot)
        score = self.upper_bound(rows) if len(rows) else np.zeros(1)
        good = self.upper_bound(rows) >= np.quantile(score, 1 - GOOD_SHARE)
        self._loss_rate = shrunk_rate(lost, scored)
        self._order = np.argsort(-shrunk_rate(lost[good], scored[good]) / self._anchor_tokens, kind="stable")
        # einsum converts a few rows at a time; `@` would hold the (n, m) matrix in float64.
        self._losses_ahead: Floats = np.einsum("ij,j->i", self._pending, self._loss_rate)
        self._losses_in_all = self._losses_ahead.copy()
        for start in range(0, len(self.one_shot), ROWS_AT_ONCE):
            block = slice(start, start + ROWS_AT_ONCE)
            self._losses_in_all[block] += ~np.isnan(self.one_shot[block]) @ self._loss_rate
        share = min(1.0, self.num_kept / max(1, self._num_candidates))
        by_share = upper_quantile(score, share)
        self._expected_bound = self._rule[1] if self._rule[0] == "threshold" else by_share
        self._learned = True
