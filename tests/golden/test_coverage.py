"""The greedy set: what it is worth, that lazy is exact, and how it differs from a ranking."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from nuggets_trainer.golden.coverage import Objective, cover, gain_spread


def matrix(n, m, seed):
    """Gains of which some rows are nearly the same, and golden scores with ties."""
    generator = np.random.default_rng(seed)
    kinds = generator.normal(size=(3, m))
    gains = kinds[generator.integers(3, size=n)] + 0.3 * generator.normal(size=(n, m))
    return gains.astype(np.float32), np.round((gains > 0).mean(axis=1), 1)


def value(gains, quality, rows, k, weight):
    """F, written out as in the module's docstring."""
    total = 0.0
    for i in rows:
        total += (1 - weight) * quality[i] / np.sort(quality)[-k:].sum()
    for j in range(gains.shape[1]):
        helped = [max(gains[i, j], 0) for i in range(len(gains))]
        if sum(helped) > 0:
            total += weight / gains.shape[1] * math.sqrt(sum(helped[i] for i in rows) / sum(helped))
    return total


def slow_greedy(gains, quality, k, weight):
    chosen = []
    for _ in range(k):
        rest = [i for i in range(len(gains)) if i not in chosen]
        worth = [value(gains, quality, [*chosen, i], k, weight) for i in rest]
        chosen.append(rest[int(np.argmax(np.round(worth, 9)))])  # the first of those equal up to rounding
    return chosen


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_greedy_set_is_within_its_bound(seed, weight):
    gains, quality = matrix(9, 5, seed)
    k = 4
    greedy = value(gains, quality, cover(gains, quality, k, weight), k, weight)
    best = max(value(gains, quality, rows, k, weight) for rows in itertools.combinations(range(9), k))
    worst = min(value(gains, quality, rows, k, weight) for rows in itertools.combinations(range(9), k))
    assert (1 - 1 / math.e) * best <= greedy <= best + 1e-6
    assert worst < 0.9 * best  # the bound says something here


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 1.0])
def test_the_lazy_set_equals_the_slow_greedy_one(weight):
    for seed in range(4):
        gains, quality = matrix(40, 7, seed)
        assert cover(gains, quality, 15, weight).tolist() == slow_greedy(gains, quality, 15, weight)


def test_most_rows_need_no_second_look(monkeypatch):
    gains, quality = matrix(1000, 20, 0)
    looked = []
    worth = Objective.worth
    monkeypatch.setattr(Objective, "worth", lambda self, rows: (looked.append(len(rows)), worth(self, rows))[1])
    cover(gains, quality, 100, 0.5)
    assert sum(looked) < 0.2 * 1000 * 100


def test_without_weight_it_is_the_ranking():
    gains, quality = matrix(50, 5, 1)
    assert cover(gains, quality, 50, 0.0).tolist() == np.argsort(-quality, kind="stable").tolist()


def test_of_equal_rows_the_first_is_taken():
    gains = np.ones((6, 3), dtype=np.float32)
    assert cover(gains, np.ones(6), 4, 0.5).tolist() == [0, 1, 2, 3]


def test_coverage_helps_anchors_that_a_ranking_skips():
    """Ten rows help anchor 0 a little more than ten others help anchor 1."""
    gains = np.zeros((20, 2), dtype=np.float32)
    gains[:10, 0], gains[10:, 1] = 1.0, 1.0
    quality = np.r_[np.full(10, 0.6), np.full(10, 0.5)]
    ranked, covered = np.arange(8), cover(gains, quality, 8, 0.95)
    assert (covered < 10).sum() == 4
    assert gain_spread(gains, ranked).anchors_covered == 0.5 and gain_spread(gains, covered).anchors_covered == 1.0
    assert gain_spread(gains, ranked).redundancy == pytest.approx(1.0)
    assert gain_spread(gains, covered).redundancy == pytest.approx(2 * (4 * 3) / (8 * 7))
    assert gain_spread(gains, covered).coverage > gain_spread(gains, ranked).coverage


def test_pairs_that_were_not_scored_are_no_gain():
    gains, quality = matrix(30, 6, 2)
    holes = gains.copy()
    holes[::3, 0] = np.nan
    filled = np.where(np.isnan(holes), 0, holes)
    assert cover(holes, quality, 10, 0.5).tolist() == cover(filled, quality, 10, 0.5).tolist()
    assert cover(np.full((4, 2), np.nan), np.zeros(4), 2, 1.0).tolist() == [0, 1]
