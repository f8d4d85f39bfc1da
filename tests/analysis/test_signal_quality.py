"""How good a ranking of rows is."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.analysis.signal_quality import (
    auc_by_kind,
    correlation_with_interval,
    good_share,
    in_order,
    score_on_unseen_anchors,
)
from nuggets_trainer.golden.scores import golden_scores


def matrix(n=200, m=40, seed=0):
    generator = np.random.default_rng(seed)
    return np.zeros(m), generator.normal(size=n)[:, None] + generator.normal(size=(n, m)), generator


def mean_gain(zero_shot, one_shot):
    return golden_scores(zero_shot, one_shot).mean_gain


def test_more_anchors_choose_better_on_unseen_ones():
    zero_shot, one_shot, _ = matrix()
    by_number = [score_on_unseen_anchors(zero_shot, one_shot, mean_gain, m, 0.1) for m in (1, 4, 20)]
    assert 0.3 < by_number[0] < by_number[1] - 0.05 < by_number[2] - 0.1 < 0.9


def test_random_ranking_is_worth_nothing_on_unseen_anchors():
    zero_shot, one_shot, generator = matrix()
    found = score_on_unseen_anchors(zero_shot, one_shot, lambda *_: generator.random(200), 4, 0.1, num_splits=300)
    assert abs(found) < 0.05


def test_the_unseen_anchors_have_no_part_in_the_choice():
    """A ranking that could see them would be perfect."""
    zero_shot, one_shot, _ = matrix(m=4)
    seen = []

    def rank(zero, one):
        seen.append(one)
        return mean_gain(zero, one)

    score_on_unseen_anchors(zero_shot, one_shot, rank, 2, 0.1, num_splits=5)
    assert all(one.shape == (200, 2) for one in seen)
    with pytest.raises(ValueError, match="between 1 and 2, which leaves 2 of 4 anchors unseen, got 3"):
        score_on_unseen_anchors(zero_shot, one_shot, rank, 3, 0.1)


def test_ties_keep_their_order_and_rows_without_a_value_are_left_out():
    assert in_order(np.array([0.5, np.nan, 0.9, 0.5])).tolist() == [2, 0, 3]
    is_good = np.array([True, True, False, True])
    assert good_share(np.array([0.5, np.nan, 0.9, 0.5]), is_good, 0.5) == 0.5


def test_auc_by_kind_is_a_share_of_pairs():
    values = np.array([3.0, 1.0, 2.0, 1.0, np.nan])
    kinds = ["clean", "clean", "noise", "cut", "noise"]
    # noise: 3 > 2, 1 < 2; cut: 3 > 1, 1 = 1
    assert auc_by_kind(values, kinds, "clean") == {"cut": 0.75, "noise": 0.5, "all": 0.625}


def test_the_interval_of_a_rank_correlation_covers_it():
    generator = np.random.default_rng(0)
    low, high = [], []
    for seed in range(40):
        a = generator.normal(size=100)
        b = 0.5 * a + np.sqrt(0.75) * generator.normal(size=100)
        _, lowest, highest = correlation_with_interval(a, b, num_draws=200, seed=seed)
        low.append(lowest)
        high.append(highest)
    true = 6 / np.pi * np.arcsin(0.25)  # Spearman's correlation of two normal variables whose correlation is 0.5
    covered = np.mean((np.array(low) < true) & (true < np.array(high)))
    assert covered > 0.85 and np.mean(high) - np.mean(low) < 0.4
    assert correlation_with_interval(np.ones(9), np.arange(9.0), num_draws=3) == (0.0, 0.0, 0.0)
