"""The intervals of a comparison, against resampling one by one."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.comparison.bootstrap import Bootstrap


def test_intervals_are_those_of_resampling_one_by_one():
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 9, 30)
    a, b = generator.gamma(2, 1, (3, 30)), generator.gamma(2, 1, (3, 30))
    found = Bootstrap(tokens, 3, 2000).difference(a, b)
    draws = []
    for _ in range(2000):
        rows, seeds = generator.integers(0, 30, 30), generator.integers(0, 3, 3)
        one, other = (np.average(x[seeds].mean(axis=0)[rows], weights=tokens[rows]) for x in (a, b))
        draws.append(one - other)
    assert found[0] == pytest.approx(np.average((a - b).mean(axis=0), weights=tokens))
    assert found[1:] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.1)


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
