"""The intervals of a comparison: what they cover, and what they are made of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from nuggets_trainer.analysis.bootstrap import Bootstrap

# Standard deviations of what a seed, a held-out row, and both together add to a loss. The mean over 60 rows has the
# eighth part of the rows' deviation.
REGIMES = {"seeds decide": (1.0, 0.1, 0.1), "rows decide": (0.001, 1.0, 0.01), "both alike": (0.13, 1.0, 0.5)}


NUM_ROWS, NUM_TRIALS = 60, 3000


@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("regime", REGIMES)
def test_intervals_cover_the_true_difference(regime, num_seeds, tails):
    """A bootstrap of the seeds covered 72% with 3 seeds and 83% with 5, where the seeds decide."""
    generator = np.random.default_rng(3)

    def rows_like(shape):
        if tails == "normal":
            return generator.normal(size=shape)
        return generator.standard_t(4, size=shape) / np.sqrt(2)

    tokens = generator.integers(1, 20, NUM_ROWS)
    bootstrap = Bootstrap(tokens, num_seeds, 200)
    of_seed, of_row, of_both = REGIMES[regime]
    losses = of_seed * generator.normal(size=(NUM_TRIALS, num_seeds, 1))
    losses = losses + of_row * rows_like((NUM_TRIALS, 1, NUM_ROWS))
    losses += of_both * rows_like((NUM_TRIALS, num_seeds, NUM_ROWS))
    low, high = bootstrap.intervals(losses)
    covered = np.mean((low <= 0) & (high >= 0))
    assert 0.93 <= covered <= 0.97, covered
    of_seeds = np.mean(bootstrap.mean(losses).std(axis=1, ddof=1))
    assert (of_seeds > 0.5) == (regime == "seeds decide")


def test_many_intervals_are_those_of_each():
    generator = np.random.default_rng(0)
    losses = generator.random((4, 3, 20))
    losses[-1] = 0.5
    bootstrap = Bootstrap(generator.integers(1, 20, 20), 3, 100)
    low, high = bootstrap.intervals(losses)
    for trial, one in enumerate(losses):
        assert bootstrap.interval(one) == pytest.approx((low[trial], high[trial]))
    assert (low[-1], high[-1]) == pytest.approx((0.5, 0.5))


def test_seeds_alone_give_the_interval_of_student():
    """Rows that are all equal leave the t interval of the runs' means."""
    losses = np.array([1.0, 1.2, 1.7])[:, None] + np.zeros((1, 20))
    expected = stats.t.interval(0.95, 2, loc=1.3, scale=stats.sem([1.0, 1.2, 1.7]))
    assert Bootstrap(np.ones(20, dtype=np.int64), 3, 100).interval(losses) == pytest.approx(expected)


def test_rows_alone_give_the_interval_of_their_mean():
    """Runs that are all equal leave what the rows tell, weighed by their tokens."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 9, 200)
    rows = generator.gamma(2, 1, 200)
    low, high = Bootstrap(tokens, 3, 8000).interval(np.tile(rows, (3, 1)))
    mean = np.average(rows, weights=tokens)
    residuals = tokens * (rows - mean) / tokens.mean()
    half_width = stats.t.ppf(0.975, 199) * stats.sem(residuals)
    assert (low + high) / 2 == pytest.approx(mean) and (high - low) / 2 == pytest.approx(half_width, rel=0.03)


def test_chance_of_run_and_row_counts_once():
    """With the chance of single losses alone, the interval is nearly that of all losses as independent values."""
    losses = np.random.default_rng(0).normal(size=(400, 5, 100))
    low, high = Bootstrap(np.ones(100, dtype=np.int64), 5, 500).intervals(losses)
    widths = high - low
    independent = 2 * 1.96 / np.sqrt(500)
    assert 1 < np.mean(widths) / independent < 1.5  # counted twice it would be at least 1.41 x 2.78 / 1.96


def test_differences_are_paired():
    """Rows that are hard for both arms widen neither: only what differs counts."""
    generator = np.random.default_rng(0)
    hard = generator.gamma(1, 5, 50) + np.zeros((4, 1))
    a, b = hard + generator.normal(0, 0.1, (4, 50)), hard + 0.2 + generator.normal(0, 0.1, (4, 50))
    bootstrap = Bootstrap(np.ones(50, dtype=np.int64), 4, 1000)
    value, low, high = bootstrap.difference(a, b)
    assert low < value < high < 0 and high - low < 0.1
    interval = bootstrap.interval(a)
    assert interval[1] - interval[0] > 1


@pytest.mark.parametrize(("num_seeds", "num_rows"), [(1, 20), (3, 1)])
def test_one_seed_or_one_row_gives_no_interval(num_seeds, num_rows):
    bootstrap = Bootstrap(np.ones(num_rows, dtype=np.int64), num_seeds, 50)
    losses = np.random.default_rng(0).random((num_seeds, num_rows))
    assert bootstrap.interval(losses) is None
    value, low, high = bootstrap.difference(losses, np.zeros_like(losses))
    assert value == pytest.approx(losses.mean()) and low is None and high is None
