"""The share of a golden set that meets a condition, told by random rows: its interval holds the true share."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.golden.condition_recall import recall_of_condition, rows_to_score
from nuggets_trainer.golden.scores import golden_scores

POOL, FRACTION = 4000, 0.1


def scores_of(values):
    """Scores whose gain on one anchor is the value; the golden scores tie."""
    return golden_scores(np.zeros(1), np.asarray(values)[:, None])


@pytest.mark.parametrize(("share_kept", "strength"), [(0.5, 0.0), (0.5, 1.0), (0.8, 1.0), (0.9, 3.0)])
def test_the_interval_holds_the_true_recall(share_kept, strength):
    """Of 400 pools, 95% should be covered; rounding of few rows makes Wilson's interval cover 91 to 98%."""
    generator = np.random.default_rng(0)
    covered, errors = 0, []
    for _ in range(400):
        values = generator.normal(size=POOL)
        signal = generator.normal(size=POOL) - strength * values
        met = signal < np.percentile(signal, 100 * share_kept)
        golden = np.argsort(-values)[: int(FRACTION * POOL)]
        truth = met[golden].mean()
        pilot = generator.permutation(POOL)[: rows_to_score(FRACTION, POOL)]
        found = recall_of_condition(scores_of(values[pilot]), met[pilot], FRACTION, "mean_gain")
        assert found.num_golden == 30 and found.num_rows == 300
        covered += found.low <= truth <= found.high
        errors.append(found.recall - truth)
    assert covered >= 0.91 * 400
    assert abs(np.mean(errors)) < 0.012  # four standard errors of the mean: the estimate leans to no side


def test_of_all_rows_the_share_is_exact():
    values = np.arange(50.0)
    found = recall_of_condition(scores_of(values), values < 49, 0.1, "mean_gain", is_whole_pool=True)
    assert (found.num_golden, found.num_met, found.recall, found.low, found.high) == (5, 4, 0.8, 0.8, 0.8)


def test_rows_without_a_score_are_no_golden_rows():
    values = np.arange(40.0)
    values[30:] = np.nan
    found = recall_of_condition(scores_of(values), np.arange(40) < 29, 0.1, "mean_gain")
    assert (found.num_rows, found.num_golden, found.num_met) == (30, 3, 2)
    with pytest.raises(ValueError, match="None of 4 random rows has a score"):
        recall_of_condition(scores_of(np.full(4, np.nan)), np.ones(4, dtype=bool), 0.1, "gain")


@pytest.mark.parametrize(
    ("fraction", "num_rows", "expected"),
    [
        (0.1, 10**7, 1000),
        (0.1, 10**4, 300),
        (0.1, 90, 90),
        (1.0, 10**4, 100),
        (1e-4, 10**7, 300_000),
        (0.07, 600, 429),
    ],
)
def test_enough_rows_are_drawn_to_see_thirty_golden_ones(fraction, num_rows, expected):
    assert rows_to_score(fraction, num_rows) == expected
    assert round(fraction * expected) >= 30 or expected == num_rows
