"""Quotas of groups, near-duplicates, and both with a ranking and with coverage."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from nuggets_trainer.golden import diversity as diversity_module
from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.limits import NO_PROMPT, Limits, quotas
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


def slow_walk(order, k, prompts, most, admits=lambda kept, i: True, room=None):
    """Walk the ranking and count: the obvious way."""
    kept = []
    for i in order.tolist():
        is_full = prompts[i] != NO_PROMPT and sum(prompts[j] == prompts[i] for j in kept) == most
        if is_full or not admits(kept, i):
            continue
        if len(kept) == k or (room is not None and room(kept, i)):
            break
        kept.append(i)
    return kept


def answers(seed, num_rows=60):
    """Random scores and gains, lengths, and prompts with 1 to about 8 rows; some rows have none."""
    generator = np.random.default_rng(seed)
    gains = generator.normal(size=(num_rows, 6)).astype(np.float32)
    scores = scores_of((gains > 0).mean(axis=1), gains.mean(axis=1))
    prompts = generator.integers(-1, 15, size=num_rows)
    prompts[prompts < 0] = NO_PROMPT
    return gains, scores, prompts, generator.integers(5, 30, size=num_rows).astype(np.float64)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("rank_by", ["golden_score", "gain", "mean_gain"])
def test_rows_per_prompt_equal_walking_the_ranking(seed, most, rank_by):
    _, scores, prompts, tokens = answers(seed)
    order = rank_candidates(scores, rank_by)
    diversity = Diversity(prompts=prompts, max_rows_per_prompt=most)
    values = getattr(scores, rank_by)
    above = int((values > 0.1).sum())
    rules = {("top_k", 9): (9, order), ("top_fraction", 0.2): (12, order), ("threshold", 0.1): (60, order[:above])}
    for rule, (k, walked) in rules.items():
        golden_set = select_golden_set(scores, rule, diversity=diversity, rank_by=rank_by)
        assert golden_set.indices.tolist() == slow_walk(walked, k, prompts, most)
        assert golden_set.num_missing == 0
    assert golden_set.passed_over["full_prompt"] == above - len(golden_set) > 0  # of the threshold
    budget = select_golden_set(scores, ("max_tokens", 120), diversity=diversity, rank_by=rank_by, total_tokens=tokens)
    assert budget.indices.tolist() == slow_walk(
        order, 60, prompts, most, room=lambda kept, i: tokens[[*kept, i]].sum() > 120
    )


def test_all_limits_together_equal_walking_the_ranking():
    reasons = Counter()
    for seed, most in itertools.product(range(6), (1, 2)):
        _, scores, prompts, _ = answers(seed)
        generator = np.random.default_rng(seed)
        groups = generator.choice(list("aab"), size=60).tolist()
        embeddings = generator.normal(size=(60, 3)).astype(np.float32)
        directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        passes = generator.random(60) < 0.9
        places = quotas([groups[i] for i in np.flatnonzero(passes)], 12, "equal")

        def admits(kept, i, groups=groups, places=places, directions=directions):
            is_full = sum(groups[j] == groups[i] for j in kept) == places[groups[i]]
            return not is_full and all(directions[i] @ directions[j] <= 0.97 for j in kept)

        diversity = Diversity(None, 0.0, groups, "equal", embeddings, 0.97, None, prompts, most)
        golden_set = select_golden_set(scores, ("top_k", 12), diversity=diversity, passes=passes)
        order = rank_candidates(scores)
        expected = slow_walk(order[passes[order]], 12, prompts, most, admits)
        assert golden_set.indices.tolist() == expected and golden_set.num_missing == 12 - len(expected)
        reasons.update(golden_set.passed_over)
    assert min(reasons[reason] for reason in ("full_group", "full_prompt", "near_duplicate")) > 9


@pytest.mark.parametrize("most", [1, 2])
def test_coverage_keeps_to_rows_per_prompt(most):
    gains, scores, prompts, _ = answers(7)
    plain = select_golden_set(scores, ("top_k", 14), diversity=Diversity(gains, 0.5))
    assert max(Counter(prompts[plain.indices].tolist()).values()) > most  # the limit changes something
    diversity = Diversity(gains, 0.5, prompts=prompts, max_rows_per_prompt=most)
    golden_set = select_golden_set(scores, ("top_k", 14), diversity=diversity)
    counts = Counter(prompts[golden_set.indices].tolist())
    del counts[NO_PROMPT]
    assert max(counts.values()) == most and len(golden_set) == 14
    best = Counter(prompts.tolist())
    del best[NO_PROMPT]
    room = sum(min(most, count) for count in best.values()) + int((prompts == NO_PROMPT).sum())
    assert len(select_golden_set(scores, ("top_k", 60), diversity=diversity)) == room < 60


def test_a_set_says_how_many_rows_are_missing():
    diversity = Diversity(prompts=np.array([0, 0, 1, 0, 1]))
    golden_set = select_golden_set(scores_of([0.9, 0.8, 0.7, 0.6, 0.5]), ("top_k", 4), diversity=diversity)
    assert golden_set.indices.tolist() == [0, 2] and golden_set.num_missing == 2
    assert golden_set.summary()["num_missing"] == 2 and "2 rows are missing" in golden_set.describe()
    said = "The golden set has 2 rows, not 4: all other rows were passed over (full_prompt 3)."
    assert golden_set.describe_missing() == said
    full = select_golden_set(scores_of([0.9, 0.8, 0.7]), ("top_k", 2), diversity=Diversity(prompts=np.arange(3)))
    assert full.num_missing == 0 and "num_missing" not in full.summary() and "missing" not in full.describe()


def test_a_budget_makes_the_classes_of_length_once(monkeypatch):
    """Each step of the search made them again: 18 CPU seconds for a million rows."""
    numbers = []

    def counted(lengths, num_kept, make=diversity_module.length_classes):
        numbers.append(num_kept)
        return make(lengths, num_kept)

    _, scores, _, tokens = answers(3, num_rows=400)
    monkeypatch.setattr(diversity_module, "length_classes", counted)
    diversity = Diversity(lengths=np.arange(400.0))
    golden_set = select_golden_set(scores, ("max_tokens", 1500), diversity=diversity, total_tokens=tokens)
    assert len(golden_set) > 50 and golden_set.num_tokens <= 1500 and numbers == [10]
    same = select_golden_set(scores, ("top_k", len(golden_set)), diversity=diversity)
    assert same.indices.tolist() == golden_set.indices.tolist()
