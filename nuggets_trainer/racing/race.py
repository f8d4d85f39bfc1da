"""The race: which pairs to score next, so that the golden set is that of scoring all pairs.

A candidate is *eliminated* when it could not be selected even if it won every anchor that it has left. How soon that
happens depends on the order of the anchors: those that candidates lose, for few tokens, come first. The order is
learned on a *pilot*, a random sample of candidates that is scored on all anchors. A bad order costs tokens, never
correctness. Then *waves* follow, with the most promising candidates first, so that the bound rises early.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Ints
from nuggets_trainer.racing.pilot import LossModel, pilot_size
from nuggets_trainer.racing.scored_pairs import Result, joined
from nuggets_trainer.racing.standings import Standings
from nuggets_trainer.racing.wave_queue import Wave, WaveQueue

# Measured with recipes/bench/race.py. None of these numbers can change the golden set.
AIM = 0.9  # expected losses of a visit, as a share of those that eliminate; 0.8 and 1 cost 1 point more
LAST_VISIT = 0.5  # the anchors left are scored at once if they cost less than this share of the prefix
RANKINGS = 16  # candidates are ranked anew after 1/16 of them; 4 costs 2 points more tokens, 1 costs 7
BLOCK = 64  # candidates planned at a time


class Race:
    """Schedule that keeps the exact golden set and scores only a part of the pairs.

    The schedule depends on the arguments and the results alone, not on the number of ranks or the order of results.
    So a run that was interrupted replays it: pairs that are stored answer at once, and the race goes on where it was.

    In one corner the golden set may be larger than that of scoring everything, and begin with it: a log-prob that is
    not finite, on a pair that the race never scores, would make k smaller with `top_fraction`.

    Args:
        standings: the state that the race starts from and updates.
        prefix_tokens: forward tokens of a visit to each candidate before the first anchor, `(n,)`.
        anchor_tokens: forward tokens of each anchor behind any candidate, `(m,)`, at least 1.
        tokens_per_wave: approximate forward tokens of a wave: it ends with the candidate that reaches them.
        pilot: candidates to score on all anchors first; None draws `pilot_size(n)` of them.
        seed: seed of that draw.

    Attributes:
        standings: what the results say so far.
        prefix_tokens: forward tokens of a visit before the first anchor, `(n,)`.
        anchor_tokens: forward tokens of each anchor, `(m,)`.
        pilot: candidates of the pilot, `(p,)`, ascending.
        losses: what the pilot has taught; None until it is scored.

    Example:
        >>> import numpy as np
        >>> log_probs = np.full((4, 9), -3, dtype=np.float32)  # zero-shot -2: all lost,
        >>> log_probs[1] = -1  # but candidate 1 wins
        >>> standings = Standings(("top_k", 1), np.full(9, -2, dtype=np.float32), np.zeros((4, 9), dtype=bool))
        >>> tokens = np.ones(9, dtype=np.int64)
        >>> race = Race(standings, tokens[:4], tokens, tokens_per_wave=9)
        >>> while wave := race.next_wave():
        ...     race.update([(i, anchors, log_probs[i, anchors]) for i, anchors in wave])
        >>> standings.bound, bool(standings.complete[1]), bool(standings.eliminated.any())
        (1.0, True, True)
    """

    def __init__(
        self,
        standings: Standings,
        prefix_tokens: Ints,
        anchor_tokens: Ints,
        tokens_per_wave: int,
        *,
        pilot: Ints | None = None,
        seed: int = 0,
    ) -> None:
        n, m = standings.pending.shape
        assert prefix_tokens.shape == (n,) and anchor_tokens.shape == (m,), (prefix_tokens.shape, anchor_tokens.shape)
        self.standings = standings
        self.prefix_tokens, self.anchor_tokens = prefix_tokens, anchor_tokens
        if pilot is None:
            pilot = np.random.default_rng(seed).permutation(n)[: pilot_size(n)]
        self.pilot: Ints = np.sort(pilot)
        self.losses: LossModel | None = None
        self._queue = WaveQueue(self.pilot, prefix_tokens, anchor_tokens, tokens_per_wave, BLOCK)
        self._predicted_cut = -np.inf

    @property
    def pilot_scored(self) -> bool:
        """Whether the pilot is scored, and the race has learned from it."""
        return self.losses is not None

    @property
    def expected_cut(self) -> float:
        """Golden score that the golden set is expected to end at; -inf until the pilot is scored."""
        return max(self.standings.bound, self._predicted_cut)

    def next_wave(self) -> Wave:
        """Return candidates, each with the anchors to score it on.

        Returns:
            Empty when all candidates are complete, eliminated or dropped.
        """
        return self._queue.next_wave(self._rank, self._choose_for_undecided)

    def update(self, results: Sequence[Result]) -> None:
        """Take in candidates, anchors and their log-probs, in any order and any number of calls."""
        if not results:
            return
        rows, anchors, log_probs = joined(results)
        self._queue.count_results(len(rows))
        self.standings.update(rows, anchors, log_probs)
        if self.losses is not None:
            self.losses.update(rows, anchors)

    def _choose_for_undecided(self, rows: Ints) -> Bools:
        """Choose the anchors of the next visit, `(len(rows), m)`; none for candidates that are decided."""
        undecided = self.standings.undecided(rows)
        chosen = np.zeros((len(rows), len(self.anchor_tokens)), dtype=np.bool_)
        chosen[undecided] = self._choose_anchors(rows[undecided])
        return chosen

    def _choose_anchors(self, rows: Ints) -> Bools:
        """Choose the anchors of the next visit, `(len(rows), m)`: just enough expected losses to eliminate the row."""
        standings, losses = self.standings, self.losses
        pending = standings.pending[rows]
        if losses is None:
            return pending
        order = losses.anchor_order
        ordered = pending[:, order]
        expected = np.cumsum(ordered * losses.loss_rate[order], axis=1) * losses.own_rate(rows)[:, None]
        before = np.concatenate([np.zeros((len(rows), 1)), expected[:, :-1]], axis=1)
        needed = np.floor((standings.upper_bound(rows) - self.expected_cut) * standings.num_anchors[rows]) + 1
        taken = ordered & (before < np.maximum(AIM * needed, 1)[:, None])
        rest = (ordered & ~taken) @ self.anchor_tokens[order]
        taken |= ordered & (rest <= LAST_VISIT * self.prefix_tokens[rows])[:, None]
        chosen = np.empty_like(pending)
        chosen[:, order] = taken
        return chosen

    def _rank(self) -> None:
        """Fill the queue with the most promising candidates.

        Those that cannot reach the predicted cut wait: most of them are eliminated without another visit.
        """
        if self.losses is None:
            self.losses = LossModel(self.standings, self.pilot, self.anchor_tokens)
            self._predicted_cut = self.losses.pilot_cut
        rows = np.flatnonzero(self.standings.undecided())
        highest = self.standings.upper_bound(rows)
        if len(rows) and highest.max() < self._predicted_cut:
            # No remaining candidate can reach the predicted cut: it was too high.
            self._predicted_cut = min(float(highest.max()), self._kth_best_prediction(self.losses))
        rows = rows[highest >= self._predicted_cut]
        most_promising = rows[np.argsort(-self.losses.predict(rows), kind="stable")]
        self._queue.refill(most_promising, min(len(rows), max(BLOCK, len(rows) // RANKINGS)))

    def _kth_best_prediction(self, losses: LossModel) -> float:
        """Return the k-th best predicted golden score, for the k rows that the rule keeps."""
        standings = self.standings
        racing = ~standings.dropped
        predicted = np.repeat(losses.predict(np.flatnonzero(racing)), standings.copies[racing])
        k = min(standings.num_kept, len(predicted))
        return float(np.partition(predicted, -k)[-k])
