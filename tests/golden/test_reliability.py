"""How far a golden set depends on the choice of anchors."""

from __future__ import annotations

import numpy as np
import pytest

from nuggets_trainer.golden.reliability import (
    anchors_for_share,
    complete_pairs,
    measure_reliability,
    share_in_common,
    spearman_brown,
)
from nuggets_trainer.golden.scores import golden_scores


def matrix(signal: float, n=300, m=40, seed=0):
    """Gains = `signal` * quality of the row + noise, N(0, 1) both."""
    generator = np.random.default_rng(seed)
    quality = generator.normal(size=n)
    return np.zeros(m), signal * quality[:, None] + generator.normal(size=(n, m))


def test_reliability_is_the_correlation_over_anchors():
    """What Spearman-Brown promises, held against anchors that were set aside."""
    zero_shot, one_shot = matrix(0.5, m=80)
    found = measure_reliability(zero_shot[:40], one_shot[:, :40], k=30)
    halves = [golden_scores(zero_shot[part], one_shot[:, part]) for part in (slice(0, 40), slice(40, 80))]
    measured = np.corrcoef(halves[0].golden_score, halves[1].golden_score)[0, 1]
    assert found.golden_score == pytest.approx(measured, abs=0.03)
    assert found.golden_score == pytest.approx(spearman_brown(found.split_half, 2))
    assert 0.5 < found.split_half < found.golden_score < found.mean_gain < 1


@pytest.mark.parametrize("rank_by", ["golden_score", "gain", "mean_gain"])
def test_golden_sets_are_compared_by_the_value_that_ranks(rank_by):
    """Anchors of unlike deviations: the standardised gain depends least on the choice of anchors."""
    zero_shot, one_shot = matrix(0.5)
    one_shot *= np.geomspace(0.02, 1, 40)
    found = measure_reliability(zero_shot, one_shot, k=30, num_draws=40, rank_by=rank_by)
    assert found.rank_by == rank_by and found.gain > max(found.golden_score, found.mean_gain) + 0.02
    assert getattr(found, rank_by) == pytest.approx(spearman_brown(found.split_half, 2))
    by_score = measure_reliability(zero_shot, one_shot, k=30, num_draws=40)
    assert (found.halves_share, found.stays) != (by_score.halves_share, by_score.stays) or rank_by == "golden_score"
    assert found.golden_score == by_score.golden_score
    assert f"{found.gain:.2f} of the standardised gain" in found.describe()


def test_scores_that_are_noise_are_found_unreliable():
    found = measure_reliability(*matrix(0.0), k=30)
    assert abs(found.golden_score) < 0.15 and found.halves_share < 0.2
    assert found.enough_anchors is None or found.enough_anchors > 1000
    assert "would be enough" in found.describe()


def test_as_many_anchors_as_it_says_are_enough():
    """The extrapolation, held against golden sets by two disjoint sets of so many anchors."""
    zero_shot, one_shot = matrix(0.5, n=2000, m=1200, seed=1)
    enough = measure_reliability(zero_shot[:60], one_shot[:, :60], k=200, num_draws=50).enough_anchors
    assert enough is not None and 100 < enough <= 600
    sets = [
        np.argsort(-golden_scores(zero_shot[part], one_shot[:, part]).golden_score, kind="stable")[:200]
        for part in (slice(0, enough), slice(enough, 2 * enough))
    ]
    assert len(np.intersect1d(*sets)) / 200 == pytest.approx(0.9, abs=0.04)


def test_the_share_in_common_is_that_of_simulated_scores():
    generator = np.random.default_rng(0)
    true = generator.normal(size=200_000)
    a, b = (np.sqrt(0.7) * true + np.sqrt(0.3) * generator.normal(size=len(true)) for _ in range(2))
    top = [set(np.argsort(-scores)[:20_000].tolist()) for scores in (a, b)]
    assert share_in_common(0.7, 0.1) == pytest.approx(len(top[0] & top[1]) / 20_000, abs=0.01)


def test_a_larger_share_needs_more_anchors():
    assert anchors_for_share(0.9, 50, 0.1) == 50
    numbers = [anchors_for_share(0.6, 50, 0.1, target) for target in (0.6, 0.7, 0.8, 0.9)]
    assert numbers == sorted(numbers) and numbers[0] == 50 and numbers[-1] > 200
    assert anchors_for_share(0.1, 50, 0.1) is None and anchors_for_share(1.0, 50, 0.1) == 50


def test_without_noise_all_of_the_golden_set_stays():
    zero_shot, one_shot = np.zeros(10), np.repeat(np.linspace(-1, 1, 50)[:, None], 10, axis=1)
    found = measure_reliability(zero_shot, one_shot, k=5)
    assert found.stays == found.halves_share == 1.0 and found.stays_interval == (1.0, 1.0)


def test_a_race_is_refused_and_a_candidate_may_lack_itself():
    zero_shot, one_shot = matrix(0.5, n=20, m=8)
    one_shot[3, 2] = np.nan  # itself an anchor
    one_shot[4] = np.nan  # dropped
    assert complete_pairs(zero_shot, one_shot)[1].shape == (19, 8)
    measure_reliability(zero_shot, one_shot, k=2, num_draws=3)
    one_shot[5, 4:] = np.nan
    with pytest.raises(ValueError, match=r"must be scored on all anchors, but 1 of 19 are not.*schedule='exact'"):
        measure_reliability(zero_shot, one_shot, k=2)


def test_a_candidate_lacks_itself_however_often_listed():
    """Two anchors that are one row of the pool looked like a race, after all runs of a comparison were through."""
    zero_shot, one_shot = matrix(0.5, n=20, m=6)
    one_shot[:, 4] = one_shot[:, 1]
    zero_shot[4] = zero_shot[1]
    one_shot[7, [1, 4]] = np.nan
    assert complete_pairs(zero_shot, one_shot)[1].shape == (20, 6)
    found = measure_reliability(zero_shot, one_shot, k=2)
    assert np.isfinite([found.split_half, found.golden_score, found.mean_gain, found.stays]).all()
    one_shot[7, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 20 are not"):
        complete_pairs(zero_shot, one_shot)


@pytest.mark.parametrize("fraction", [0.95, 0.97])
def test_a_share_that_chance_gives_needs_one_anchor(fraction):
    assert anchors_for_share(0.98, 10, fraction) == 1
    assert anchors_for_share(1 - 1e-7, 10, 0.1) == 10  # nothing can be told from 1


def test_opposite_halves_have_a_reliability():
    assert spearman_brown(-1.0, 2) == -1.0 == spearman_brown(-0.6, 2) and spearman_brown(-0.2, 2) == -0.5


@pytest.mark.parametrize(
    ("m", "k", "message"), [(3, 2, "at least 4 anchors"), (8, 20, "`k` must be between 1 and 19")]
)
def test_what_cannot_be_measured_is_refused(m, k, message):
    with pytest.raises(ValueError, match=message):
        measure_reliability(*matrix(1, n=20, m=m), k=k)
