"""The golden set is the first k of one total order, and says how it was cut."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from nuggets_trainer.golden.ranking import rank_candidates
from nuggets_trainer.golden.scores import GoldenScores
from nuggets_trainer.golden.selection import select_golden_set


def scores_of(golden_score, mean_gain=None) -> GoldenScores:
    golden_score = np.array(golden_score, dtype=np.float64)
    mean_gain = (
        np.where(np.isnan(golden_score), np.nan, 0.0) if mean_gain is None else np.array(mean_gain, dtype=float)
    )
    num_anchors = np.where(np.isnan(golden_score), 0, 10)
    error = np.sqrt(golden_score * (1 - golden_score) / 10)
    return GoldenScores(golden_score, error, mean_gain, num_anchors, error / 2, mean_gain, error)


def random_scores(seed: int, n: int = 60) -> GoldenScores:
    """Few different values, so that score and gain tie often; some candidates without a score."""
    generator = np.random.default_rng(seed)
    golden_score = generator.integers(0, 5, n) / 4
    golden_score[generator.random(n) < 0.15] = np.nan
    mean_gain = np.where(np.isnan(golden_score), np.nan, generator.integers(-2, 3, n) / 2)
    return scores_of(golden_score, mean_gain)


def naive_order(scores: GoldenScores) -> list[int]:
    scored = [i for i in range(len(scores.golden_score)) if not math.isnan(scores.golden_score[i])]
    return sorted(scored, key=lambda i: (-scores.golden_score[i], -scores.mean_gain[i], i))


def test_ties_are_ordered_by_mean_gain_then_index():
    scores = scores_of([0.5, 0.9, 0.9, 0.9, 0.5], [0.3, 0.1, 0.2, 0.2, -0.1])
    assert rank_candidates(scores).tolist() == [2, 3, 1, 0, 4]


def test_a_candidate_without_a_score_is_never_ranked():
    scores = scores_of([math.nan, 0.0, math.nan, 1.0])
    assert rank_candidates(scores).tolist() == [3, 1]
    assert rank_candidates(scores_of([math.nan, math.nan])).tolist() == []


@pytest.mark.parametrize("seed", range(8))
def test_order_and_cut_equal_a_naive_sort(seed):
    scores = random_scores(seed)
    order = naive_order(scores)
    assert rank_candidates(scores).tolist() == order
    for k in (1, 2, len(order) // 2, len(order) - 1, len(order)):
        golden = select_golden_set(scores, ("top_k", k))
        assert golden.indices.tolist() == order[:k]
        cut = scores.golden_score[order[k - 1]]
        assert golden.cut == cut
        assert golden.ties_at_cut == sum(scores.golden_score[i] == cut for i in order)
        assert golden.ties_kept == sum(scores.golden_score[i] == cut for i in order[:k])
        assert golden.num_candidates == len(order) < len(scores.golden_score)


def test_the_random_cases_need_every_key_of_the_order():
    scores = random_scores(0)
    order = naive_order(scores)
    pairs = [(a, b) for a, b in pairwise(order) if scores.golden_score[a] == scores.golden_score[b]]
    assert any(scores.mean_gain[a] > scores.mean_gain[b] for a, b in pairs)
    assert any(scores.mean_gain[a] == scores.mean_gain[b] for a, b in pairs)


def test_a_golden_set_has_its_scores_in_rank_order():
    scores = random_scores(3)
    golden = select_golden_set(scores, ("top_k", 7))
    np.testing.assert_array_equal(golden.golden_score, scores.golden_score[golden.indices])
    np.testing.assert_array_equal(golden.standard_error, scores.standard_error[golden.indices])
    np.testing.assert_array_equal(golden.mean_gain, scores.mean_gain[golden.indices])
    assert golden.rule == ("top_k", 7)
    assert len(golden) == 7
    assert golden.indices.dtype == np.int64


@pytest.mark.parametrize(
    ("fraction", "num_candidates", "expected"),
    [
        (0.1, 10, 1),
        (0.1, 14, 1),
        (0.1, 16, 2),
        (0.1, 1, 1),  # never none
        (1e-9, 50, 1),
        (1.0, 50, 50),
        (1, 50, 50),
        (0.5, 5, 2),  # Python's round: half to even
        (0.5, 7, 4),
        (0.29, 100, 29),  # 0.29 * 100 is 28.999...
    ],
)
def test_a_fraction_of_scored_candidates_is_rounded(fraction, num_candidates, expected):
    golden_score = np.linspace(0, 1, num_candidates)
    dropped = np.full(30, np.nan)  # do not count
    golden = select_golden_set(scores_of([*golden_score, *dropped]), ("top_fraction", fraction))
    assert len(golden) == expected
    assert golden.num_candidates == num_candidates


def test_top_k_keeps_exactly_k_though_all_are_tied():
    golden = select_golden_set(scores_of([0.5] * 20), ("top_k", 7))
    assert golden.indices.tolist() == list(range(7))
    assert (golden.cut, golden.ties_at_cut, golden.ties_kept) == (0.5, 20, 7)


def test_without_ties_one_candidate_is_at_the_cut():
    golden = select_golden_set(scores_of([0.1, 0.2, 0.3, 0.4]), ("top_k", 2))
    assert (golden.cut, golden.ties_at_cut, golden.ties_kept) == (0.3, 1, 1)


def test_a_score_at_the_threshold_is_not_kept():
    scores = scores_of([0.5, 0.75, math.nan, 0.75, 0.8])
    assert select_golden_set(scores, ("threshold", 0.75)).indices.tolist() == [4]
    assert select_golden_set(scores, ("threshold", np.nextafter(0.75, 0))).indices.tolist() == [4, 1, 3]
    assert select_golden_set(scores, ("threshold", 0.0)).indices.tolist() == [4, 1, 3, 0]
    assert select_golden_set(scores_of([0.0, 0.1]), ("threshold", 0.0)).indices.tolist() == [1]


def test_a_threshold_that_keeps_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"`threshold` must be below the best golden score \(0\.8000\), got 0\.9\. Lower it"
    ):
        select_golden_set(scores_of([0.8, 0.2]), ("threshold", 0.9))


def test_k_larger_than_the_scored_pool_is_refused():
    scores = scores_of([0.8, math.nan, 0.2])
    assert len(select_golden_set(scores, ("top_k", 2))) == 2
    with pytest.raises(ValueError, match=r"`top_k` must be at most .* \(2 of 3\), got 3\. Lower `top_k`"):
        select_golden_set(scores, ("top_k", 3))


@pytest.mark.parametrize("rule", [("top_k", 1), ("top_fraction", 0.5), ("threshold", 0.0)])
def test_a_pool_without_any_score_is_refused(rule):
    with pytest.raises(ValueError, match="No candidate has a score: all 2 rows of the pool were dropped"):
        select_golden_set(scores_of([math.nan, math.nan]), rule)


def test_summary_and_line_tell_the_ties_at_the_cut():
    golden = select_golden_set(scores_of([0.9, 0.5, 0.5, 0.5, math.nan]), ("top_k", 2))
    assert golden.summary() == {
        "golden_set_size": 2.0,
        "num_candidates": 4.0,
        "num_dropped": 1.0,
        "golden_score_mean": 0.7,
        "pool_golden_score_mean": pytest.approx(0.6, abs=1e-12),  # (0.9 + 3 * 0.5) / 4
        "golden_score_cut": 0.5,
        "mean_gain": 0.0,
        "ties_at_cut": 3.0,
        "ties_kept": 1.0,
    }
    line = golden.describe()
    for part in ("2 of 4 candidates", "top_k=2", "0.900 to 0.500", "3 candidates tie at the cut, 1 kept"):
        assert part in line


def test_the_line_writes_a_large_k_out_in_full():
    golden = select_golden_set(scores_of(np.zeros(1_234_567)), ("top_k", 1_234_567))
    assert "e+06" not in golden.describe()


@pytest.mark.parametrize("rule", [("top_k", 3), ("top_fraction", 0.5), ("threshold", 0.3)])
def test_rows_that_may_not_be_chosen_are_as_if_absent(rule):
    """The golden set is that of the other rows alone, and says how many were left out."""
    scores = random_scores(3)
    passes = np.random.default_rng(4).random(60) < 0.6
    golden_set = select_golden_set(scores, rule, passes=passes)
    alone = select_golden_set(GoldenScores(**{name: values[passes] for name, values in vars(scores).items()}), rule)
    assert golden_set.indices.tolist() == np.flatnonzero(passes)[alone.indices].tolist()
    for name in ("cut", "ties_at_cut", "ties_kept", "num_candidates", "pool_golden_score_mean"):
        assert getattr(golden_set, name) == getattr(alone, name)
    num_failing = int((~passes & ~np.isnan(scores.golden_score)).sum())
    assert golden_set.passed_over == {"fails_require": num_failing} and num_failing > 5


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            ("top", 5),
            r"`rule` must be one of top_fraction, top_k, threshold, max_tokens with its value, got \('top', 5\)",
        ),
        (("top_k", 0), "`top_k` must be a whole number from 1 on, got 0"),
        (("top_k", 1.7), "`top_k` must be a whole number from 1 on, got 1.7"),
        (("top_fraction", 10), r"`top_fraction` must be a fraction in \(0, 1\], got 10"),
        (("top_fraction", 0.0), r"`top_fraction` must be a fraction in \(0, 1\], got 0.0"),
        (("threshold", math.nan), "`threshold` must be a number, got nan"),
        (("max_tokens", 0), "`max_tokens` must be a number from 1 on, got 0"),
    ],
)
def test_a_rule_that_keeps_no_rows_is_refused(rule, message):
    """They ended in an IndexError or an AssertionError, or kept one row in silence."""
    with pytest.raises(ValueError, match=message):
        select_golden_set(scores_of([0.5, 0.9]), rule)


def test_a_value_that_the_scores_lack_is_named():
    with pytest.raises(ValueError, match="`rank_by` must be one of golden_score, gain, .*, got 'score'"):
        select_golden_set(scores_of([0.5, 0.9]), ("top_k", 1), rank_by="score")
    with pytest.raises(ValueError, match="`rank_by='ifd'` is a signal of each row, and these scores have none"):
        select_golden_set(scores_of([0.5, 0.9]), ("top_k", 1), rank_by="ifd")
