"""The forecast of a race holds from the end of the pilot on."""

from __future__ import annotations

import math

import numpy as np

from nuggets_trainer.racing.forecast import HIGH_UNSEEN, tokens_left, tokens_of_all
from nuggets_trainer.racing.race import Race
from nuggets_trainer.racing.standings import Standings


def test_a_race_ends_within_its_forecast():
    """Golden scores as in the paper, and anchors of very different difficulty."""
    generator = np.random.default_rng(0)
    n, m = 900, 60
    skill, ease = generator.normal(0.5, 0.8, (n, 1)), generator.normal(0, 1.5, m)
    one_shot = (skill + ease + generator.normal(0, 1, (n, m))).astype(np.float32)
    prefix, suffix = generator.integers(20, 200, n), generator.integers(20, 200, m)
    none = np.zeros((n, m), dtype=bool)
    race = Race(Standings(("top_fraction", 0.1), np.zeros(m, dtype=np.float32), none), prefix, suffix, 5000)
    assert math.isnan(tokens_left(race)[1])  # nothing is known before the pilot
    spent, forecasts = 0, []
    while wave := race.next_wave():
        race.update([(i, anchors, one_shot[i, anchors]) for i, anchors in wave])
        spent += sum(int(prefix[i] + suffix[anchors].sum()) for i, anchors in wave)
        forecasts.append((spent, tokens_left(race)))
    first = next((at, left) for at, left in forecasts if not math.isnan(left[1]))
    low, expected, high = (first[0] + left for left in first[1])
    assert first[0] < 0.1 * spent < 0.1 * tokens_of_all(race) / 1.2  # early, and the race saves something
    assert low <= spent <= high and abs(expected / spent - 1) < 0.3
    assert high <= first[0] + HIGH_UNSEEN * first[1][0]
    assert forecasts[-1][1] == (0, 0, 0)
