"""How many forward tokens a race will still take, by expectation."""

from __future__ import annotations

import math

import numpy as np

from nuggets_trainer.golden.arrays import Bools, Floats, Ints
from nuggets_trainer.racing.gain_forecast import gain_tokens_left
from nuggets_trainer.racing.gain_race import GainRace
from nuggets_trainer.racing.race import Race

MOST_ROWS = 256  # candidates under way that are looked at
# Actual over predicted tokens at the end of the pilot, over 32 simulated pools (laws P and H of recipes/bench/race.py,
# 2,000 and 10,000 rows, top 1 to 30%): median 1.2, from 1.05 to 1.4 if the pilot has rows about as good as the golden
# set, up to 1.95 if it has none. A race visits some candidates twice, and its bound takes time to rise.
LOW, MIDDLE, HIGH, HIGH_UNSEEN = 1.0, 1.2, 1.45, 2.0
SMALL_PILOT = 20  # rows; from fewer, a prediction was once too low by a factor of 4


def tokens_left(race: Race | GainRace) -> tuple[float, float, float]:
    """Predict the forward tokens until the end of a race.

    Args:
        race: the race, at any point.

    Returns:
        A low bound, the expected number and a high bound; NaN until the pilot is scored.
    """
    return gain_tokens_left(race) if isinstance(race, GainRace) else _exact_tokens_left(race)


def _exact_tokens_left(race: Race) -> tuple[float, float, float]:
    """Predict the forward tokens until the end of an exact race.

    A candidate that is not visited yet is expected to cost what those of the pilot would have cost, any other what
    its losses so far let one expect.
    """
    standings, losses = race.standings, race.losses
    if losses is None:
        return math.nan, math.nan, math.nan
    undecided = np.flatnonzero(standings.undecided())
    visited = undecided[standings.num_scored[undecided] > 0]
    num_fresh = len(undecided) - len(visited)

    pilot = race.pilot[~standings.dropped[race.pilot]]
    one_shot = standings.one_shot[pilot]
    lost = ~(one_shot > standings.zero_shot)
    fresh = _tokens_until_out(race, pilot, lost.astype(np.float64), np.ones(len(pilot)), ~np.isnan(one_shot))

    some = visited[:: len(visited) // MOST_ROWS + 1]
    expected_losses = losses.loss_rate * losses.own_rate(some)[:, None]
    begun = _tokens_until_out(race, some, expected_losses, standings.upper_bound(some), standings.pending[some])

    left = num_fresh * _mean(fresh) + len(visited) * _mean(begun)
    suffix_tokens = standings.num_pending[undecided].sum() * race.anchor_tokens.mean()
    most = float(race.prefix_tokens[undecided].sum() + suffix_tokens)
    high = most
    if len(pilot) >= SMALL_PILOT:
        # Whether a random pilot of this size holds two rows of the golden set, by expectation.
        seen = len(pilot) * standings.num_kept >= 2 * max(1, standings.num_candidates)
        factor = HIGH if seen else HIGH_UNSEEN
        high = factor * left
    return min(most, LOW * left), min(most, MIDDLE * left), min(most, high)


def tokens_of_all(race: Race | GainRace) -> float:
    """Return the forward tokens of scoring all pairs."""
    return float(race.prefix_tokens.sum() + race.standings.num_anchors.sum() * race.anchor_tokens.mean())


def _tokens_until_out(race: Race, rows: Ints, losses: Floats, highest: Floats, ahead: Bools) -> Floats:
    """Return the forward tokens until each candidate has lost so often that it is out, `(r,)`.

    A candidate that never loses so often takes all anchors ahead.

    Args:
        race: the race, with its order of the anchors and its expected cut.
        rows: the candidates, `(r,)`.
        losses: losses on each anchor, as they were or as expected, `(r, m)`.
        highest: golden score of each candidate if it wins all anchors ahead, `(r,)`.
        ahead: anchors that are ahead of each candidate, `(r, m)`.
    """
    assert race.losses is not None
    order = race.losses.anchor_order
    needed = np.floor((highest - race.expected_cut) * race.standings.num_anchors[rows]) + 1
    ahead, losses = ahead[:, order], (losses * ahead)[:, order]
    losses_before = np.cumsum(losses, axis=1) - losses
    taken = ahead & (losses_before < needed[:, None])
    suffix_tokens = taken @ race.anchor_tokens[order]
    tokens: Floats = np.where((needed > 0) & ahead.any(axis=1), race.prefix_tokens[rows] + suffix_tokens, 0.0)
    return tokens


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0
