"""Quotas of groups, near-duplicates, and both with a ranking and with coverage."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.limits import Limits, quotas
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import GoldenScores
from nuggets_trainer.golden.selection import select_golden_set


def scores_of(golden_score, mean_gain=None) -> GoldenScores:
    p = np.asarray(golden_score, dtype=np.float64)
    gain = np.zeros(len(p)) if mean_gain is None else np.asarray(mean_gain, dtype=np.float64)
    error = np.sqrt(np.abs(p * (1 - p)) / 10)
    return GoldenScores(p, error, gain, np.where(np.isnan(p), 0, 10), error, gain, error)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("quota", ["proportional", "equal"])
def test_quotas_fill_all_places_within_group_sizes(seed, quota):
    generator = np.random.default_rng(seed)
    groups = generator.choice(list("abcde"), p=[0.5, 0.3, 0.1, 0.07, 0.03], size=60).tolist()
    sizes = Counter(groups)
    for k in (0, 1, 7, 33, 60):
        places = quotas(groups, k, quota)
        assert sum(places.values()) == k and set(places) == set(sizes)
        assert all(0 <= places[name] <= sizes[name] for name in sizes)
        for name in sizes:
            if quota == "proportional":
                assert abs(places[name] - k * sizes[name] / 60) < 1
            elif places[name] < sizes[name]:  # not full: no other group has more than one place more
                assert max(places.values()) <= places[name] + 1


def test_quotas_take_the_best_of_each_group():
    scores = scores_of([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    diversity = Diversity(groups=["a", "a", "a", "a", "b", "b"], group_quota="equal")
    golden_set = select_golden_set(scores, ("top_k", 4), diversity=diversity)
    assert golden_set.indices.tolist() == [0, 1, 4, 5]
    assert golden_set.passed_over == {"full_group": 2}
    assert golden_set.cut == 0.4 and "passed over 2 (full_group)" in golden_set.describe()
    assert select_golden_set(scores, ("top_k", 4)).indices.tolist() == [0, 1, 2, 3]


def slow_distinct(order, embeddings, k, max_similarity):
    kept = []
    for i in order:
        own = embeddings[i] / np.linalg.norm(embeddings[i])
        if all(float(own @ (embeddings[j] / np.linalg.norm(embeddings[j]))) <= max_similarity for j in kept):
            kept.append(int(i))
        if len(kept) == k:
            break
    return kept


def test_near_duplicates_equal_comparing_every_pair():
    generator = np.random.default_rng(0)
    embeddings = (generator.normal(size=(5, 8))[generator.integers(5, size=60)]).astype(np.float32)
    embeddings += 0.2 * generator.normal(size=embeddings.shape).astype(np.float32)
    scores = scores_of(np.round(generator.random(60), 1), generator.normal(size=60))
    for max_similarity, k in ((0.9, 12), (0.97, 30)):
        diversity = Diversity(embeddings=embeddings, max_similarity=max_similarity)
        golden_set = select_golden_set(scores, ("top_k", k), diversity=diversity)
        assert golden_set.indices.tolist() == slow_distinct(rank_candidates(scores), embeddings, k, max_similarity)
        assert golden_set.passed_over["near_duplicate"] > 3


def test_a_set_is_smaller_where_nothing_else_is_left():
    golden_set = select_golden_set(
        scores_of([0.9, 0.8, 0.7]),
        ("top_k", 3),
        diversity=Diversity(embeddings=np.ones((3, 2), np.float32), max_similarity=0.9),
    )
    assert golden_set.indices.tolist() == [0] and golden_set.passed_over == {"near_duplicate": 2}


def test_a_near_duplicate_does_not_lower_the_threshold():
    embeddings = np.array([[1, 0], [1, 0.01], [0, 1], [-1, 0], [0, -1]], np.float32)
    diversity = Diversity(embeddings=embeddings, max_similarity=0.9)
    golden_set = select_golden_set(scores_of([0.9, 0.85, 0.8, 0.3, 0.2]), ("threshold", 0.5), diversity=diversity)
    assert golden_set.indices.tolist() == [0, 2] and golden_set.cut == 0.8


def test_equal_rows_are_near_duplicates_zeros_not():
    limits = Limits(
        embeddings=np.array([[3, 4], [0.6, 0.8], [0, 0], [0, 0], [4, -3]], np.float32), max_similarity=0.999
    )
    assert [limits.admit(i) for i in range(5)] == [True, False, True, True, True]


@pytest.mark.parametrize("max_similarity", [0.9999999, float(np.nextafter(1, 0))])
def test_equal_rows_are_near_duplicates_at_any_limit(max_similarity):
    """In float32 one of seven had a cosine of at most 0.9999999 with itself, and stayed."""
    embeddings = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    limits = Limits(embeddings=np.concatenate([embeddings, embeddings]), max_similarity=max_similarity)
    assert [limits.admit(i) for i in range(100)] == [True] * 50 + [False] * 50


def test_a_cosine_near_the_limit_is_exact():
    angles = np.array([0, 1.0e-3, 2.0e-3, 4.1e-3])  # cosines are below 1 by half the square
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    for max_similarity, expected in ((1 - 5.1e-7, [True, False, True, True]), (1 - 4.9e-7, [True] * 4)):
        limits = Limits(embeddings=embeddings, max_similarity=max_similarity)
        assert [limits.admit(i) for i in range(4)] == expected


def test_coverage_keeps_to_quotas_and_distance_too():
    generator = np.random.default_rng(3)
    gains = generator.normal(size=(40, 6)).astype(np.float32)
    groups = ["a" if i % 4 else "b" for i in range(40)]
    embeddings = generator.normal(size=(40, 3)).astype(np.float32)
    scores = scores_of((gains > 0).mean(axis=1), gains.mean(axis=1))
    diversity = Diversity(gains, 0.5, groups, "proportional", embeddings, 0.97)
    golden_set = select_golden_set(scores, ("top_k", 12), diversity=diversity)
    assert Counter(groups[i] for i in golden_set.indices) == {"a": 9, "b": 3}
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    own = directions[golden_set.indices]
    assert np.triu(own @ own.T, 1).max() <= 0.97
    assert golden_set.passed_over.keys() == {"full_group", "near_duplicate"}
    assert golden_set.spread["coverage"] > golden_set.spread["ranking_coverage"] - 0.05
    assert "by coverage" in golden_set.describe()
    assert (np.diff(np.argsort(rank_candidates(scores))[golden_set.indices]) > 0).all()  # in rank order
