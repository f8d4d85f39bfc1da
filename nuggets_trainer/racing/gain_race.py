"""The race for gains: a row stops as soon as more anchors would hardly change whether it belongs to the golden set.

A gain has no bound, so no row can be proved to be out, as in `race.py`. But after the *pilot*, a random sample of
candidates that is scored on all anchors, the noise is known (`gain_model.py`): each row that is scored on some anchors
has a predicted value, and a probability to belong to the golden set. All rows are scored on a few anchors. Then the
rows whose membership is least sure get as many anchors again, and again, until a stated share of the golden set by the
predictions is expected to be right, or to differ from the right rows by less than anybody can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Floats, Ints, row_blocks
from nuggets_trainer.racing.gain_standings import GainStandings
from nuggets_trainer.racing.scored_pairs import Result, joined
from nuggets_trainer.racing.wave_queue import Wave, WaveQueue

# Measured with recipes/bench/gain_race.py.
FIRST_ANCHORS = 4  # anchors of a first visit, doubled while they cost less than half of the mean prefix
LAST_VISIT = 0.5  # the anchors left are scored at once if they cost less than this share of the prefix
RANKINGS = 16  # candidates are ranked anew after 1/16 of them
BLOCK = 16  # fewest candidates between two rankings
LEAST_DOUBT = 1e-6  # rows of the golden set; a row that is surer than that is decided
# The race aims at this share of the misses that are allowed. Without it, the mean recall of 20 to 30 simulated pools
# was up to 0.04 too low in the top 1% (0.86 where 0.9 was asked for): the covariance of 64 rows is itself uncertain.
MARGIN = 0.7


class GainRace:
    """Schedule that finds most of the golden set by gains, and scores only a part of the pairs.

    The schedule depends on the arguments and the results alone, not on the number of ranks or the order of results.
    So a run that was interrupted replays it: pairs that are stored answer at once, and the race goes on where it was.

    At least the share `recall` of the golden set by the predicted values is expected to be as good as a row of the one
    that scoring every pair would give: it belongs to that set, or is below its last row by less than a difference that
    does not count (`indifference_of`), because other anchors would as likely turn it round. This holds as far as the
    rows' gains follow a normal law whose covariance the pilot shows: over many pools, the mean share is then at least
    `recall`.

    Args:
        standings: the state that the race starts from and updates.
        prefix_tokens: forward tokens of a visit to each candidate before the first anchor, `(n,)`.
        anchor_tokens: forward tokens of each anchor behind any candidate, `(m,)`, at least 1.
        tokens_per_wave: approximate forward tokens of a wave: it ends with the candidate that reaches them.
        pilot: candidates to score on all anchors first, `(p,)`; a random sample.
        recall: share of the golden set that is to be as good as that of all pairs, by expectation, in (0, 1).

    Attributes:
        standings: what the results say so far.
        prefix_tokens: forward tokens of a visit before the first anchor, `(n,)`.
        anchor_tokens: forward tokens of each anchor, `(m,)`.
        tokens_per_wave: approximate forward tokens of a wave.
        pilot: candidates of the pilot, `(p,)`, ascending.
        recall: share of the golden set that is to be as good as that of all pairs.
        pilot_scored: whether the pilot is scored.
        later_tokens: forward tokens of all visits behind the first ones.
        rehearsed: forward tokens behind the first visits, by a forecast; None until one was asked for.
        first_missed: rows of the golden set that were expected to be missing after the first visits; None before.
    """

    def __init__(
        self,
        standings: GainStandings,
        prefix_tokens: Ints,
        anchor_tokens: Ints,
        tokens_per_wave: int,
        *,
        pilot: Ints,
        recall: float = 0.75,
    ) -> None:
        n, m = standings.pending.shape
        assert prefix_tokens.shape == (n,) and anchor_tokens.shape == (m,), (prefix_tokens.shape, anchor_tokens.shape)
        self.standings = standings
        self.prefix_tokens, self.anchor_tokens = prefix_tokens, anchor_tokens
        self.recall = recall
        self.pilot: Ints = np.sort(pilot)
        self.first_missed: float | None = None
        self.rehearsed: float | None = None
        self.later_tokens = 0
        self.tokens_per_wave = tokens_per_wave
        self._first_anchors = FIRST_ANCHORS
        self._queue = WaveQueue(self.pilot, prefix_tokens, anchor_tokens, tokens_per_wave, BLOCK)
        self.pilot_scored = False

    @property
    def expected_cut(self) -> float:
        """Value that the golden set is expected to end at; -inf until the pilot is scored."""
        cut = self.standings.cut
        return -np.inf if cut is None else cut

    @property
    def most_missed(self) -> float:
        """Rows of the golden set that may be missing, by expectation, when the race ends."""
        recall = self.standings.recall
        if recall is None:
            return 0.0
        in_all = recall.missed / (1 - recall.share) if recall.share < 1 else self.standings.num_kept
        return MARGIN * (1 - self.recall) * in_all

    def next_wave(self) -> Wave:
        """Return candidates, each with the anchors to score it on.

        Returns:
            Empty when the race is over.
        """
        wave = self._queue.next_wave(self._rank, self._choose_anchors)
        if self.first_missed is not None:
            self.later_tokens += self._queue.wave_tokens
        return wave

    def update(self, results: Sequence[Result]) -> None:
        """Take in candidates, anchors and their log-probs, in any order and any number of calls."""
        if not results:
            return
        rows, anchors, log_probs = joined(results)
        self._queue.count_results(len(rows))
        self.standings.update(rows, anchors, log_probs)

    def visit_tokens(self, rows: Ints) -> Floats:
        """Return the forward tokens of the next visit to each candidate, `(r,)`."""
        tokens: Floats = np.empty(len(rows))
        for block in row_blocks(len(rows)):
            some = rows[block]
            tokens[block] = self.prefix_tokens[some] + self._choose_anchors(some) @ self.anchor_tokens
        return tokens

    def _choose_anchors(self, rows: Ints) -> Bools:
        """Choose the anchors of the next visit: as many as are scored already, `(len(rows), m)`."""
        standings, model = self.standings, self.standings.model
        pending = standings.pending[rows] & ~standings.dropped[rows, None]
        if model is None:
            return pending
        order = model.order
        ordered = pending[:, order]
        wanted = np.maximum(self._first_anchors, standings.num_scored[rows])
        taken = ordered & (np.cumsum(ordered, axis=1) <= wanted[:, None])
        rest = (ordered & ~taken) @ self.anchor_tokens[order]
        taken |= ordered & (rest <= LAST_VISIT * self.prefix_tokens[rows])[:, None]
        chosen = np.zeros_like(pending)
        chosen[:, order] = taken
        return chosen

    def _rank(self) -> None:
        """Fill the queue: first with rows that have no score, then with those whose membership is least sure."""
        standings = self.standings
        if not self.pilot_scored:
            self.pilot_scored = True
            standings.learn(self.pilot, self.anchor_tokens)
            self._first_anchors = self._size_first_visit()
        open_rows = np.flatnonzero((standings.num_pending > 0) & ~standings.dropped)
        if standings.model is None:
            # Nothing can be predicted, so every pair is scored.
            self._queue.refill(open_rows, len(open_rows))
            return
        standings.look()
        fresh = open_rows[standings.num_scored[open_rows] == 0]
        if len(fresh):
            self._queue.refill(fresh, len(fresh))
            return
        least_sure = self._least_sure(open_rows)
        self._queue.refill(least_sure, min(len(least_sure), max(BLOCK, len(open_rows) // RANKINGS)))

    def _least_sure(self, rows: Ints) -> Ints:
        """Order rows by what a visit may gain per token; no more of them than the recall that is missing asks for.

        Args:
            rows: candidates that have anchors left.
        """
        recall = self.standings.recall
        assert recall is not None
        if self.first_missed is None:
            self.first_missed = recall.missed
        too_many = recall.missed - self.most_missed
        if too_many <= 0:
            return rows[:0]
        member = np.zeros(len(self.standings))
        member[~self.standings.dropped] = recall.member
        doubt = self.standings.copies[rows] * np.minimum(member[rows], 1 - member[rows])
        rows, doubt = rows[doubt > LEAST_DOUBT], doubt[doubt > LEAST_DOUBT]
        order = np.argsort(-doubt / self.visit_tokens(rows), kind="stable")
        enough = int(np.searchsorted(np.cumsum(doubt[order]), too_many)) + 1
        return rows[order[:enough]]

    def _size_first_visit(self) -> int:
        """Return the anchors of a first visit: more where prefixes are long, because each visit computes one anew."""
        size, m = FIRST_ANCHORS, len(self.anchor_tokens)
        while size < m and size * self.anchor_tokens.mean() < LAST_VISIT * self.prefix_tokens.mean():
            size *= 2
        return size
