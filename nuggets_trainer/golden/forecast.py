"""How much of a race is left, by expectation. Pure numpy; knows no model and no time."""

from __future__ import annotations

import math

import numpy as np

from nuggets_trainer.golden.race import Bools, Floats, Ints, Race

MOST_ROWS = 256  # candidates under way that are looked at
# Actual over predicted tokens at the end of the pilot, over 32 simulated pools (laws P and H of recipes/bench/race.py,
# 2,000 and 10,000 rows, top 1 to 30%): median 1.2, from 1.05 to 1.4 where the pilot has rows about as good as the
# golden set, up to 1.95 where it has none. A race visits some candidates twice, and its bound takes time to rise.
LOW, MIDDLE, HIGH, HIGH_UNSEEN = 1.0, 1.2, 1.45, 2.0
SMALL_PILOT = 20  # rows; from fewer, a prediction was once short by a factor of 4


class ForeseeableRace(Race):
    """A race that can tell, from its pilot on, how many forward tokens are left."""

    def tokens_left(self) -> tuple[float, float, float]:
        """Forward tokens to the end: low, expected, high; NaN until the pilot is through.

        A candidate not visited yet is taken to cost what those of the pilot would have cost, the others what their
        losses so far let one expect.
        """
        if not self._learned:
            return math.nan, math.nan, math.nan
        alive = np.flatnonzero(self._alive(np.arange(len(self.dropped))))
        visited = alive[self.num_scored[alive] > 0]
        pilot = self.pilot[~self.dropped[self.pilot]]
        lost = ~(self.one_shot[pilot] > self.zero_shot)
        fresh = self._until_out(pilot, lost.astype(np.float64), np.ones(len(pilot)), ~np.isnan(self.one_shot[pilot]))
        some = visited[:: len(visited) // MOST_ROWS + 1]
        likely = self._loss_rate * self._own_rate(some)[:, None]
        begun = self._until_out(some, likely, self.upper_bound(some), self._pending[some])
        left = (len(alive) - len(visited)) * _mean(fresh) + len(visited) * _mean(begun)
        most = float(self._prefix_tokens[alive].sum() + self._num_pending[alive].sum() * self._anchor_tokens.mean())
        seen = len(pilot) * self.num_kept >= 2 * max(1, self._num_candidates)
        high = most if len(pilot) < SMALL_PILOT else (HIGH if seen else HIGH_UNSEEN) * left
        return min(most, LOW * left), min(most, MIDDLE * left), min(most, high)

    def tokens_of_all(self) -> float:
        """Forward tokens of all pairs."""
        return float(self._prefix_tokens.sum() + self.num_anchors.sum() * self._anchor_tokens.mean())

    @property
    def num_eliminated(self) -> int:
        """Rows of the pool that are out of the race, equal ones counted each."""
        return int(self._copies[self.eliminated].sum())

    @property
    def cut(self) -> float | None:
        """Golden score of the last row that is kept so far; None while there are too few."""
        if self._rule[0] != "threshold":
            return self.bound if math.isfinite(self.bound) else None
        scores = self.upper_bound()[self.complete]
        return min(scores[scores > self._rule[1]].tolist(), default=None)

    @property
    def expected_cut(self) -> float:
        """Golden score that the golden set is expected to end at; -inf until the pilot is through."""
        return max(self.bound, self._expected_bound)

    def _until_out(self, rows: Ints, losses: Floats, best: Floats, ahead: Bools) -> Floats:
        """Tokens until each row has lost so much that it is out, `(r,)`; all that is ahead where it never has."""
        needed = np.floor((best - self.expected_cut) * self.num_anchors[rows]) + 1
        ahead, losses = ahead[:, self._order], (losses * ahead)[:, self._order]
        taken = ahead & (np.cumsum(losses, axis=1) - losses < needed[:, None])
        suffix = taken @ self._anchor_tokens[self._order]
        tokens: Floats = np.where((needed > 0) & ahead.any(axis=1), self._prefix_tokens[rows] + suffix, 0.0)
        return tokens


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0
