"""What a small sample of candidates, the pilot, teaches: loss rates, an order of the anchors, the cut to expect."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Floats, Ints, row_blocks
from nuggets_trainer.racing.standings import Standings

# Measured with recipes/bench/race.py. None of these numbers can change the golden set.
GOOD_SHARE = 0.5  # best share of the pilot, which the order is learned on; 0.75 costs the same, 0.1 1-2 points more
PRIOR_LOSSES = 4.0  # losses seen before a candidate's own loss rate counts as much as the pool's
PRIOR_ANCHORS = 2.0  # pseudo-count of candidates behind each anchor's loss rate


def pilot_size(num_candidates: int) -> int:
    """Return the number of candidates in the pilot: sqrt(n).

    It costs 1 / sqrt(n) of all pairs, most of which the order of the anchors then saves.

    Example:
        >>> pilot_size(52_000)
        228
    """
    return math.isqrt(num_candidates)


class LossModel:
    """Expected losses of each candidate, from the loss rates of the pilot and the candidate's own results.

    Candidate i is expected to lose anchor j with probability `own_rate[i] * loss_rate[j]`.

    Args:
        standings: state of the race after the pilot.
        pilot: candidates of the pilot, `(p,)`.
        anchor_tokens: forward tokens of each anchor, `(m,)`.

    Attributes:
        loss_rate: share of the pilot that loses each anchor, `(m,)`.
        anchor_order: anchors in the order to score them, `(m,)`: those that good candidates lose for few tokens first.
        pilot_cut: golden score that the golden set would end at, estimated from the pilot alone.
    """

    def __init__(self, standings: Standings, pilot: Ints, anchor_tokens: Ints) -> None:
        self._standings = standings
        rows = pilot[~standings.dropped[pilot]]
        one_shot = standings.one_shot[rows]
        scored = ~np.isnan(one_shot)
        lost = scored & ~(one_shot > standings.zero_shot)
        scores = standings.upper_bound(rows)
        known_scores = scores if len(rows) else np.zeros(1)
        good = scores >= np.quantile(known_scores, 1 - GOOD_SHARE)
        self.loss_rate = shrunk_rate(lost, scored)
        good_loss_rate = shrunk_rate(lost[good], scored[good])
        self.anchor_order: Ints = np.argsort(-good_loss_rate / anchor_tokens, kind="stable")
        if standings.rule[0] == "threshold":
            self.pilot_cut = standings.rule[1]
        else:
            share = min(1.0, standings.num_kept / max(1, standings.num_candidates))
            self.pilot_cut = upper_quantile(known_scores, share)
        # einsum converts a few rows at a time; `@` would hold the (n, m) matrix in float64.
        self._losses_ahead: Floats = np.einsum("ij,j->i", standings.pending, self.loss_rate)
        self._losses_in_all = self._losses_ahead.copy()
        for block in row_blocks(len(standings)):
            self._losses_in_all[block] += ~np.isnan(standings.one_shot[block]) @ self.loss_rate

    def update(self, rows: Ints, anchors: Ints) -> None:
        """Note that these pairs are scored, given by candidate and anchor, each array `(number of pairs,)`."""
        np.subtract.at(self._losses_ahead, rows, self.loss_rate[anchors])

    def own_rate(self, rows: Ints) -> Floats:
        """Return the losses of each candidate divided by those expected on the same anchors, `(len(rows),)`."""
        standings = self._standings
        expected = self._losses_in_all[rows] - self._losses_ahead[rows]
        losses = standings.num_scored[rows] - standings.wins[rows]
        rate: Floats = (losses + PRIOR_LOSSES) / (expected + PRIOR_LOSSES)
        return rate

    def predict(self, rows: Ints) -> Floats:
        """Return the expected golden score of each candidate, `(len(rows),)`."""
        standings = self._standings
        losses = np.minimum(self.own_rate(rows) * self._losses_ahead[rows], standings.num_pending[rows])
        score: Floats = standings.upper_bound(rows) - losses / np.maximum(standings.num_anchors[rows], 1)
        return score


def upper_quantile(scores: Floats, share: float) -> float:
    """Estimate from a sample the score that this share of the candidates reaches.

    It is half way between the sample's own quantile, which is low in small samples, and the quantile of a half-normal
    distribution fitted to the upper half of the sample.

    Args:
        scores: golden scores of the sample, `(p,)`.
        share: share of the candidates, in [0, 1].
    """
    middle = float(np.median(scores))
    spread = math.sqrt(float(np.mean((scores[scores >= middle] - middle) ** 2)))
    half_normal = middle + spread * max(0.0, NormalDist().inv_cdf(max(1 - share, 1e-12)))
    return (float(np.quantile(scores, 1 - share)) + min(1.0, half_normal)) / 2


def shrunk_rate(lost: Bools, scored: Bools) -> Floats:
    """Return the share of losses per anchor, `(m,)`, drawn towards the mean of all anchors if few rows are known.

    Args:
        lost: pairs that are lost, `(p, m)`.
        scored: pairs that are scored, `(p, m)`.
    """
    mean = (lost.sum() + 1) / (scored.sum() + 2)
    rate: Floats = (lost.sum(axis=0) + PRIOR_ANCHORS * mean) / (scored.sum(axis=0) + PRIOR_ANCHORS)
    # Sums of multiples of 2^-20 are exact, hence the same in whatever order results come back.
    return np.ceil(rate * 2**20) / 2**20
