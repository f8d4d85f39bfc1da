"""Classes of length: their rows, their quotas, and the best rows of each; all equal to the slow, obvious way."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.length_classes import NUM_CLASSES, length_classes
from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import GoldenScores
from nuggets_trainer.golden.selection import select_golden_set


def scores_of(generator, n, length) -> GoldenScores:
    """Scores that follow the length, as they do under some models."""
    gain = generator.normal(0, 0.3, n) + np.log(length)
    score = np.round(stats.rankdata(gain) / n, 1)
    nothing = np.zeros(n)
    return GoldenScores(score, nothing, gain, np.full(n, 10), nothing, gain, nothing)


def slow_class(lengths, i, num_classes) -> int:
    """Count the rows before the middle one of those that are equally long, one by one."""
    num_shorter, num_equal = sum(lengths < lengths[i]), sum(lengths == lengths[i])
    return int(Fraction(int(2 * num_shorter + num_equal), 2 * len(lengths)) * num_classes)


def slow_choice(lengths, order, k) -> list[int]:
    """Sort each class by rank, and round the share of the classes up to each to whole places."""
    classes = {}
    for i in order:
        classes.setdefault(slow_class(lengths, i, min(10, k)), []).append(i)
    kept, num_up_to = [], 0
    for _, rows in sorted(classes.items()):
        num_up_to += len(rows)
        kept += rows[: int(Fraction(k * num_up_to, len(lengths)) + Fraction(1, 2)) - len(kept)]
    return [i for i in order if i in kept]


@pytest.mark.parametrize("k", [1, 3, 10, 37, 80])
def test_it_equals_sorting_each_class_and_taking_its_share(k):
    for seed in range(3):
        generator = np.random.default_rng(seed)
        lengths = np.ceil(generator.lognormal(2.5, 1.2, 120))  # many rows are equally long
        scores = scores_of(generator, 120, lengths)
        golden_set = select_golden_set(scores, ("top_k", k), diversity=Diversity(lengths=lengths))
        assert golden_set.indices.tolist() == slow_choice(lengths, rank_candidates(scores).tolist(), k)
        assert sum(counts["kept"] for counts in golden_set.groups.values()) == k
        ranking = select_golden_set(scores, ("top_k", k)).indices
        assert k == 1 or set(golden_set.indices) != set(ranking)


def test_the_golden_set_has_the_lengths_of_the_pool():
    """The share of rows up to any length differs by less than one class, where the ranking takes the longest rows."""
    generator = np.random.default_rng(5)
    lengths = np.ceil(generator.lognormal(4, 1, 2000))
    scores = scores_of(generator, 2000, lengths)

    def distance(rows):
        return stats.ks_2samp(lengths[rows], lengths).statistic

    within = select_golden_set(scores, ("top_fraction", 0.1), diversity=Diversity(lengths=lengths))
    assert distance(within.indices) < 1 / NUM_CLASSES < 0.5 < distance(rank_candidates(scores)[:200])


def furthest(lengths, score, k) -> float:
    """Return the largest difference between the shares of kept rows and of all rows up to any length."""
    nothing = np.zeros(len(lengths))
    scores = GoldenScores(score, nothing, score, np.full(len(lengths), 10), nothing, score, nothing)
    kept = select_golden_set(scores, ("top_k", k), diversity=Diversity(lengths=lengths)).indices
    return stats.ks_2samp(lengths[kept], lengths).statistic


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_of_one_length_do_not_fill_their_class(sign):
    """With 9% of one length and 50% of the next, one class held both, and all its places went to the 9%."""
    lengths = np.array([1.0] * 90 + [2.0] * 500 + list(range(3, 413)))
    assert furthest(lengths, sign * lengths, 100) < 1 / NUM_CLASSES


def test_few_places_are_spread_over_the_lengths():
    """Of equal classes, those whose names came first got the places that were left, such as the five shortest."""
    for k in (12, 15, 25):
        for start in (10, 80, 96):
            assert furthest(np.arange(start, start + 100.0), np.ones(100), k) <= 1 / NUM_CLASSES + 0.5 / k


def test_classes_hold_equal_lengths_together():
    lengths = np.array([3.0] * 40 + [4.0] * 30 + list(range(5, 35)))
    names = length_classes(lengths, 50)
    assert set(names[:40]) == {"3 tokens"} and set(names[40:70]) == {"4 tokens"}
    assert names[70:73] == ["5 to 14 tokens"] * 3 and names[-1] == "25 to 34 tokens"
    assert len(set(length_classes(np.arange(100.0), 50))) == 10 and len(set(length_classes(np.arange(100.0), 4))) == 4


def test_rows_of_unknown_length_are_a_class_of_their_own():
    lengths = np.array([np.nan, 5.0, 6.0, np.nan])
    assert length_classes(lengths, 4) == ["unknown length", "5 tokens", "6 tokens", "unknown length"]
    assert length_classes(np.full(2, np.nan), 1) == ["unknown length"] * 2
    nothing = np.zeros(4)
    scores = GoldenScores(np.array([0.9, 0.8, 0.7, 0.6]), nothing, nothing, np.full(4, 10), nothing, nothing, nothing)
    golden_set = select_golden_set(scores, ("top_k", 3), diversity=Diversity(lengths=lengths))
    assert list(golden_set.groups) == ["5 tokens", "6 tokens", "unknown length"]


@pytest.mark.parametrize("budget", [500, 3000, 10**9])
def test_a_budget_takes_the_most_rows_within_quotas_that_fit(budget):
    generator = np.random.default_rng(7)
    lengths = np.ceil(generator.lognormal(3, 1, 120))
    tokens, scores = lengths + 20, scores_of(generator, 120, lengths)
    diversity = Diversity(lengths=lengths)
    golden_set = select_golden_set(scores, ("max_tokens", budget), diversity=diversity, total_tokens=tokens)
    assert golden_set.num_tokens == tokens[golden_set.indices].sum() <= budget
    order = rank_candidates(scores).tolist()
    assert golden_set.indices.tolist() == slow_choice(lengths, order, len(golden_set))
    if len(golden_set) < 120:
        assert tokens[slow_choice(lengths, order, len(golden_set) + 1)].sum() > budget
