"""Rows are ranked by one of three values, each with its own tie-breaker, rule and words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nuggets_trainer.config.rule_options import RANK_BY
from nuggets_trainer.golden.diversity import Diversity
from nuggets_trainer.golden.ranking import RANKED_VALUES, rank_candidates
from nuggets_trainer.golden.scores import GoldenScores, golden_scores
from nuggets_trainer.golden.selection import select_golden_set


def tied_scores(seed: int, n: int = 80) -> GoldenScores:
    """Few different values, so that each of them ties often; some rows without a score."""
    generator = np.random.default_rng(seed)
    share, gain, mean_gain = (generator.integers(-3, 4, n) / 4 for _ in range(3))
    error = np.full(n, 0.1)
    for values in (share, gain, mean_gain):
        values[:: n // 6] = np.nan
    return GoldenScores(share, error, mean_gain, np.full(n, 10), error, gain, error)


def naive_order(scores: GoldenScores, first: str, second: str) -> list[int]:
    rows = [i for i in range(len(scores.gain)) if not math.isnan(scores.gain[i])]
    return sorted(rows, key=lambda i: (-getattr(scores, first)[i], -getattr(scores, second)[i], i))


def test_options_and_arrays_name_the_same_values():
    assert tuple(RANKED_VALUES) == RANK_BY
    assert all(name == ranked.name for name, ranked in RANKED_VALUES.items())


@pytest.mark.parametrize(
    ("rank_by", "second"), [("golden_score", "mean_gain"), ("gain", "golden_score"), ("mean_gain", "golden_score")]
)
def test_the_order_is_total_for_each_value(rank_by, second):
    for seed in range(5):
        scores = tied_scores(seed)
        order = naive_order(scores, rank_by, second)
        assert rank_candidates(scores, rank_by).tolist() == order
        golden_set = select_golden_set(scores, ("top_k", 20), rank_by=rank_by)
        values = getattr(scores, rank_by)
        assert golden_set.indices.tolist() == order[:20]
        assert golden_set.cut == values[order[19]] and golden_set.ties_at_cut == (values == golden_set.cut).sum() > 1
        assert golden_set.ties_kept == (golden_set.value == golden_set.cut).sum()
        assert golden_set.value.tolist() == values[order[:20]].tolist()


@pytest.mark.parametrize("rank_by", RANK_BY)
@pytest.mark.parametrize("rule", [("top_k", 5), ("top_fraction", 0.1), ("threshold", 0.25)])
def test_each_rule_takes_each_value(rule, rank_by):
    scores = tied_scores(1)
    golden_set = select_golden_set(scores, rule, rank_by=rank_by)
    values = getattr(scores, rank_by)
    sizes = {"top_k": 5, "top_fraction": round(0.1 * golden_set.num_candidates), "threshold": (values > 0.25).sum()}
    assert len(golden_set) == sizes[rule[0]]
    assert golden_set.pool_mean == pytest.approx(np.nanmean(values))
    assert golden_set.summary()[f"{rank_by}_cut"] == golden_set.cut


def test_a_threshold_on_gains_may_be_negative_and_a_high_one_is_explained():
    scores = tied_scores(2)
    golden_set = select_golden_set(scores, ("threshold", -0.3), rank_by="gain")
    assert len(golden_set) == (scores.gain > -0.3).sum()
    with pytest.raises(ValueError, match=r"below the best standardised gain \(0.7500 deviations\), got 9"):
        select_golden_set(scores, ("threshold", 9), rank_by="gain")
    with pytest.raises(ValueError, match=r"below the best mean gain \(0.7500 nats per token\), got 9"):
        select_golden_set(scores, ("threshold", 9), rank_by="mean_gain")


def test_a_golden_set_says_what_it_is_ranked_by():
    scores = tied_scores(3)
    lines = {name: select_golden_set(scores, ("top_k", 9), rank_by=name).describe() for name in RANK_BY}
    assert "golden score 0.750 to 0.750 (standard error at the cut 0.100)" in lines["golden_score"]
    assert "standardised gain 0.750 to 0.750 deviations (standard error at the cut 0.100)" in lines["gain"]
    assert "mean gain 0.7500 to 0.5000 nats per token (standard error at the cut 0.1000)" in lines["mean_gain"]
    assert "kept (by mean gain, then index)" in lines["golden_score"]
    assert "kept (by golden score, then index)" in lines["gain"]


def test_one_anchor_leaves_the_error_of_a_gain_unknown():
    scores = golden_scores(np.zeros(1), np.array([[0.1], [0.2], [0.3]]))
    golden_set = select_golden_set(scores, ("top_k", 1), rank_by="gain")
    assert golden_set.indices.tolist() == [2] and "standard error at the cut unknown" in golden_set.describe()


def test_rows_without_gains_are_refused_with_the_remedy():
    scores = tied_scores(0)
    scores.gain[:] = np.nan
    with pytest.raises(ValueError, match="No row has a standardised gain.*schedule='exact'"):
        select_golden_set(scores, ("top_k", 2), 70, rank_by="gain")


@pytest.mark.parametrize("rank_by", RANK_BY)
def test_coverage_counts_gains_from_the_worst_candidate(rank_by):
    """Coverage takes no quality below 0; with little weight on coverage the best rows by the value stay."""
    generator = np.random.default_rng(4)
    gains = generator.normal(0, 1, (60, 8)) + np.linspace(-1, 1, 60)[:, None]
    scores = golden_scores(np.zeros(8), gains)
    ranking = select_golden_set(scores, ("top_k", 12), rank_by=rank_by)
    assert getattr(scores, rank_by).min() < 0 or rank_by == "golden_score"
    nearly = select_golden_set(scores, ("top_k", 12), None, Diversity(gains=gains, coverage_weight=1e-9), rank_by)
    assert set(nearly.value.tolist()) == set(ranking.value.tolist()) and nearly.num_unlike_ranking is not None
    covering = select_golden_set(scores, ("top_k", 12), None, Diversity(gains=gains, coverage_weight=0.9), rank_by)
    assert covering.num_unlike_ranking and covering.spread["coverage"] > ranking_coverage(covering)
    assert (np.diff(covering.value) <= 0).all()  # in rank order


def ranking_coverage(golden_set) -> float:
    return golden_set.spread["ranking_coverage"]
