"""How many forward tokens a race for gains will still take: a rehearsal on rows that are drawn by its own model."""

from __future__ import annotations

import math

import numpy as np

from nuggets_trainer.racing.gain_race import GainRace
from nuggets_trainer.racing.gain_standings import GainStandings

FEWEST_ROWS, MOST_ROWS = 500, 4000  # rows of a rehearsal
ROWS_KEPT = 10  # rows that a rehearsal keeps at least, if it has rows enough
# Actual over rehearsed tokens behind the first visits, over 21 simulated pools (laws of recipes/bench/gain_race.py,
# 1,500 rows, top 1, 10 and 30%): median 0.7, from 0.2 to 1.4, and 2.2 where the best rows lie closely together.
LOW, MIDDLE, HIGH = 0.3, 0.8, 2.0
PROGRESS = 0.95  # share of the misses that is left when the pace of a race begins to tell something


def gain_tokens_left(race: GainRace) -> tuple[float, float, float]:
    """Predict the forward tokens until the end of a race for gains.

    Args:
        race: the race, at any point. The first forecast after the pilot is kept in it.

    Returns:
        A low bound, the expected number and a high bound; NaN until the pilot is scored.
    """
    standings = race.standings
    if not race.pilot_scored:
        return math.nan, math.nan, math.nan
    open_rows = np.flatnonzero((standings.num_pending > 0) & ~standings.dropped)
    suffix_tokens = float(standings.num_pending[open_rows].sum() * race.anchor_tokens.mean())
    most = float(race.prefix_tokens[open_rows].sum()) + suffix_tokens
    if standings.model is None:
        return most, most, most
    fresh = open_rows[standings.num_scored[open_rows] == 0]
    first = float(race.visit_tokens(fresh).sum())
    if race.rehearsed is None:
        race.rehearsed = _rehearse(race)
    low, middle, high = _tokens_behind_first_visits(race, race.rehearsed)
    return min(most, first + low), min(most, first + middle), min(most, first + max(high, first))


def _tokens_behind_first_visits(race: GainRace, rehearsed: float) -> tuple[float, float, float]:
    """Predict the tokens to come behind the first visits: by the rehearsal, or by the pace if that says more."""
    recall = race.standings.recall
    if race.first_missed is None or recall is None:
        return LOW * rehearsed, MIDDLE * rehearsed, HIGH * rehearsed
    in_all = race.first_missed - race.most_missed
    if in_all <= 0:
        return 0.0, 0.0, 0.0
    share = max(0.0, recall.missed - race.most_missed) / in_all
    # Visits that have not made the golden set surer tell that at least as many are to come.
    pace = race.later_tokens * (share / (1 - share) if share < PROGRESS else 1.0)
    expected = max(MIDDLE * min(1.0, share) * rehearsed, pace)
    return LOW / MIDDLE * expected, expected, HIGH / MIDDLE * expected


def _rehearse(race: GainRace) -> float:
    """Return the forward tokens that a race takes behind the pilot and the first visits, by a race of drawn rows."""
    standings, model = race.standings, race.standings.model
    assert model is not None
    n = max(1, standings.num_candidates)
    name, value = standings.rule
    num_rows = FEWEST_ROWS
    if name != "threshold":
        name, value = "top_fraction", standings.num_kept / n
        num_rows = math.ceil(ROWS_KEPT / value)
    num_rows = min(max(num_rows, FEWEST_ROWS), MOST_ROWS, n)
    generator = np.random.default_rng(0)
    one_shot = model.draw(generator, num_rows)
    drawn = GainStandings((name, value), standings.zero_shot, np.isnan(one_shot), rank_by=standings.rank_by)
    drawn.adopt(model)
    rehearsal = GainRace(
        drawn,
        generator.choice(race.prefix_tokens, num_rows),
        race.anchor_tokens,
        max(1, race.tokens_per_wave * num_rows // n),
        pilot=np.zeros(0, dtype=np.int64),
        recall=race.recall,
    )
    tokens = 0
    while wave := rehearsal.next_wave():
        for row, anchors in wave:
            if drawn.num_scored[row]:
                tokens += int(rehearsal.prefix_tokens[row] + race.anchor_tokens[anchors].sum())
        rehearsal.update([(row, anchors, one_shot[row, anchors]) for row, anchors in wave])
    return tokens * n / num_rows
